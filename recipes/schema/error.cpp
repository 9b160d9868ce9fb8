#include "recipes/schema/error.h"

namespace tune {

std::string to_string(const Place& place) {
  std::string text = place.file;
  if (place.line > 0) text += fmt::format(":{}", place.line);
  if (place.line > 0 && place.column > 0) text += fmt::format(":{}", place.column);
  return text;
}

namespace {
std::string message(const Place& place, const std::string& what, const std::string& remedy) {
  std::string text = to_string(place);
  if (!text.empty()) text += ": ";
  text += what;
  if (!remedy.empty()) text += "; " + remedy;
  return text;
}
}  // namespace

Error::Error(Fault fault, Place place, const std::string& what, const std::string& remedy)
    : std::runtime_error(message(place, what, remedy)), fault_(fault), place_(std::move(place)) {}

void throw_bug(const char* file, int line, const char* condition, const std::string& text) {
  throw Bug(fmt::format("{}:{}: {} does not hold: {}", file, line, condition, text));
}

}  // namespace tune
