#include "recipes/schema/units.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "recipes/schema/error.h"
#include "recipes/schema/problems.h"

namespace tune {
namespace {

// All of the text as a number; from_chars knows no leading '+'.
template <class Number>
std::optional<Number> parse_all(std::string_view text) {
  if (text.starts_with('+') && text.size() > 1 && text[1] != '-') text.remove_prefix(1);
  Number number{};
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

bool is_name(std::string_view text) {
  const auto is_letter = [](char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_'; };
  return !text.empty() && is_letter(text.front()) &&
         std::all_of(text.begin(), text.end(), [&](char c) { return is_letter(c) || (c >= '0' && c <= '9'); });
}

}  // namespace

std::optional<std::int64_t> parse_whole_number(std::string_view text) { return parse_all<std::int64_t>(text); }

std::optional<double> parse_number(std::string_view text) {
  const auto number = parse_all<double>(text);
  return number && std::isfinite(*number) ? number : std::nullopt;
}

std::int64_t parse_bytes(std::string_view text, const std::string& place) {
  struct Unit {
    std::string_view name;
    double bytes;
  };
  constexpr std::array kUnits = {Unit{"KiB", 0x1p10}, Unit{"MiB", 0x1p20}, Unit{"GiB", 0x1p30},
                                 Unit{"TiB", 0x1p40}, Unit{"KB", 1e3},     Unit{"MB", 1e6},
                                 Unit{"GB", 1e9},     Unit{"TB", 1e12},    Unit{"B", 1}};
  std::string_view digits = text;
  double unit_bytes = 1;
  for (const Unit& unit : kUnits) {
    if (!digits.ends_with(unit.name)) continue;
    unit_bytes = unit.bytes;
    digits.remove_suffix(unit.name.size());
    break;
  }
  while (digits.ends_with(' ')) digits.remove_suffix(1);
  const auto number = parse_number(digits);
  if (!number || *number < 0 || *number * unit_bytes >= 0x1p63)
    throw Error{Fault::recipe,
                {place},
                fmt::format("{} is no amount of memory", in_quotes(text)),
                "write it as 24GiB, 512MiB or 24GB"};
  return static_cast<std::int64_t>(*number * unit_bytes);
}

namespace {

std::int64_t parse_large(std::string_view text, const std::string& place, std::string_view what,
                         std::string_view unit) {
  const std::int64_t bytes = parse_bytes(text, place);
  if (bytes >= 1000000) return bytes;
  const bool no_unit = parse_number(text).has_value();
  throw Error{Fault::recipe,
              {place},
              fmt::format("{}{} is no {}", in_quotes(text), no_unit ? " bytes" : "", what),
              no_unit ? fmt::format("add the unit: {}{}", text, unit) : "write it as 24GiB, 512MiB or 24GB"};
}

}  // namespace

std::int64_t parse_device_memory(std::string_view text, const std::string& place) {
  return parse_large(text, place, "device's memory", "GiB");
}

std::int64_t parse_shard_size(std::string_view text, const std::string& place) {
  return parse_large(text, place, "file's size", "GB");
}

Expanded expand_environment(std::string_view text) {
  Expanded result;
  while (true) {
    const std::size_t start = text.find("${");
    if (start == std::string_view::npos) break;
    if (start > 0 && text[start - 1] == '$') {
      result.text += fmt::format("{}${{", text.substr(0, start - 1));
      text.remove_prefix(start + 2);
      continue;
    }
    const std::size_t end = text.find('}', start);
    const std::string name(text.substr(start + 2, end == std::string_view::npos ? end : end - start - 2));
    if (end == std::string_view::npos || !is_name(name)) {
      result.problem = fmt::format("{} holds ${{ without a variable's name and }}", in_quotes(text));
      result.remedy = "write ${NAME}, or $${ for the two characters themselves";
      return result;
    }
    const char* value = std::getenv(name.c_str());
    if (value == nullptr) {
      result.problem = fmt::format("the environment variable {} is not set", name);
      result.remedy = fmt::format("export {}=… before you start, or write the path out", name);
      return result;
    }
    if (std::any_of(value, value + std::char_traits<char>::length(value), [](char c) { return c >= 0 && c < 0x20; })) {
      result.problem = fmt::format("the environment variable {} holds a control character: {}", name, in_quotes(value));
      result.remedy = "it must be a path";
      return result;
    }
    result.text += std::string(text.substr(0, start)) + value;
    text.remove_prefix(end + 1);
  }
  result.text += text;
  return result;
}

}  // namespace tune
