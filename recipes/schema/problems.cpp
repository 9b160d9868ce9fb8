#include "recipes/schema/problems.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "recipes/schema/error.h"

namespace tune {

void Problems::add(const Place& place, const std::string& what, const std::string& remedy) {
  problems_.push_back({place, remedy.empty() ? what : what + "; " + remedy});
}

void Problems::raise() const {
  if (problems_.empty()) return;
  std::vector<Problem> sorted;
  std::set<std::string> told;  // what several stages share is told once
  for (const Problem& problem : problems_)
    if (told.insert(to_string(problem.place) + problem.text).second) sorted.push_back(problem);
  std::stable_sort(sorted.begin(), sorted.end(), [](const Problem& a, const Problem& b) {
    return std::tie(a.place.line, a.place.column) < std::tie(b.place.line, b.place.column);
  });
  constexpr std::size_t kShown = 50;       // more only happen in files that are no recipes
  std::string text = sorted.front().text;  // Error itself puts the first place in front
  for (std::size_t i = 1; i < std::min(sorted.size(), kShown); ++i)
    text += fmt::format("\n{}: {}", to_string(sorted[i].place), sorted[i].text);
  if (sorted.size() > kShown) text += fmt::format("\n… and {} more", sorted.size() - kShown);
  throw Error{Fault::recipe, sorted.front().place, text};
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t kLongest = 60;
  std::size_t end = std::min(text.size(), kLongest);
  while (end < text.size() && end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80)
    --end;  // whole characters
  std::string result = "\"";
  for (const char c : text.substr(0, end)) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F)
      result += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    else
      result += c;
  }
  return result + (end < text.size() ? "…\"" : "\"");
}

}  // namespace tune
