#include "checkpoints/training/slice_name.h"

#include <fmt/format.h>

#include <charconv>

namespace tune {

std::string slice_name(std::string_view tensor, std::int64_t first) { return fmt::format("{}@{}", tensor, first); }

SliceName parse_slice_name(std::string_view name) {
  const std::size_t at = name.rfind('@');
  if (at == std::string_view::npos) return {std::string(name), std::nullopt};
  std::int64_t first = 0;
  const char* const end = name.data() + name.size();
  const auto number = std::from_chars(name.data() + at + 1, end, first);
  const std::string_view rest(number.ptr, static_cast<std::size_t>(end - number.ptr));
  if (number.ec != std::errc{} || (!rest.empty() && rest.front() != '.')) return {std::string(name), std::nullopt};
  return {fmt::format("{}{}", name.substr(0, at), rest), first};
}

}  // namespace tune
