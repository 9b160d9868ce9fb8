#include "checkpoints/training/retention.h"

#include <fmt/format.h>

#include <charconv>
#include <string>
#include <string_view>

#include "checkpoints/files/atomic_folder.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kPrefix = "checkpoint-";

/// -1 for any other name.
std::int64_t step_of(std::string_view name) {
  if (!name.starts_with(kPrefix)) return -1;
  name.remove_prefix(kPrefix.size());
  std::int64_t step = -1;
  const auto parsed = std::from_chars(name.data(), name.data() + name.size(), step);
  return parsed.ec == std::errc{} && parsed.ptr == name.data() + name.size() ? step : -1;
}

}  // namespace

fs::path checkpoint_path(const fs::path& output_dir, std::int64_t step) {
  return output_dir / fmt::format("{}{}", kPrefix, step);
}

std::map<std::int64_t, fs::path> list_checkpoints(const fs::path& output_dir) {
  std::map<std::int64_t, fs::path> checkpoints;
  if (!fs::exists(output_dir)) return checkpoints;
  for (const auto& entry : fs::directory_iterator(output_dir)) {  // throws: unreadable is not empty
    const std::int64_t step = step_of(entry.path().filename().string());
    std::error_code unreadable;  // then it is no folder as far as we see, but surely no stranger
    if (step >= 0 && (entry.is_directory(unreadable) || unreadable)) checkpoints.emplace(step, entry.path());
  }
  return checkpoints;
}

void retain_checkpoints(const fs::path& output_dir, std::int64_t save_total_limit, std::optional<std::int64_t> best) {
  const auto checkpoints = list_checkpoints(output_dir);
  auto surplus = save_total_limit > 0 ? static_cast<std::int64_t>(checkpoints.size()) - save_total_limit : 0;
  for (const auto& [step, path] : checkpoints) {
    if (surplus <= 0 || step == checkpoints.rbegin()->first) break;
    if (step == best) continue;
    remove_atomically(path);
    --surplus;
  }
  remove_leftovers(output_dir);
}

void remove_checkpoints(const fs::path& output_dir) {
  for (const auto& [step, path] : list_checkpoints(output_dir)) remove_atomically(path);
  remove_leftovers(output_dir);
}

}  // namespace tune
