#include "checkpoints/gguf/parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <system_error>

namespace tune {

namespace fs = std::filesystem;

namespace {

/// "-00002-of-00003.gguf", whatever the numbers.
bool is_part_ending(std::string_view text) {
  constexpr std::string_view pattern = "-#####-of-#####.gguf";
  return std::equal(text.begin(), text.end(), pattern.begin(), pattern.end(),
                    [](char c, char wanted) { return wanted == '#' ? c >= '0' && c <= '9' : c == wanted; });
}

}  // namespace

fs::path gguf_part_path(const fs::path& whole, std::size_t number, std::size_t count) {
  return whole.parent_path() / fmt::format("{}-{:05}-of-{:05}.gguf", whole.stem().string(), number, count);
}

fs::path gguf_whole_path(const fs::path& part, std::size_t number, std::size_t count) {
  const std::string name = part.filename().string();
  const std::string ending = fmt::format("-{:05}-of-{:05}.gguf", number, count);
  if (!name.ends_with(ending) || name.size() == ending.size()) return {};
  return part.parent_path() / (name.substr(0, name.size() - ending.size()) + ".gguf");
}

std::vector<fs::path> existing_gguf_parts(const fs::path& whole) {
  const std::string stem = whole.stem().string();
  std::vector<fs::path> parts;
  std::error_code absent;
  for (const auto& entry : fs::directory_iterator(fs::absolute(whole).parent_path(), absent)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(stem) && is_part_ending(std::string_view(name).substr(stem.size())))
      parts.push_back(entry.path());
  }
  std::sort(parts.begin(), parts.end());
  return parts;
}

}  // namespace tune
