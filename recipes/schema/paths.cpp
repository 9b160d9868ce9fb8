#include "recipes/schema/fields.h"

namespace tune {

Place nearest_place(const std::map<std::string, Place>& places, std::string path) {
  while (!path.empty()) {
    if (const auto found = places.find(path); found != places.end()) return found->second;
    const std::size_t end = path.find_last_of(".[");
    path.resize(end == std::string::npos ? 0 : end);
  }
  const auto found = places.find("");
  return found == places.end() ? Place{} : found->second;
}

Place Recipe::place_of(std::string path) const { return nearest_place(places, std::move(path)); }

std::string without_positions(std::string_view path) {
  std::string result;
  for (const char c : path) {
    const bool inside = !result.empty() && result.back() == '[';
    if (!(inside && c >= '0' && c <= '9')) result += c;
  }
  return result;
}

}  // namespace tune
