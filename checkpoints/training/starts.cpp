#include "checkpoints/training/starts.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "checkpoints/files/atomic_file.h"

namespace tune {
namespace {

constexpr const char* kFile = "starts.json";

}  // namespace

bool goes_nowhere(const std::filesystem::path& output_dir, std::int64_t began_at_step, std::int64_t ended_at_step) {
  std::int64_t count = 0;
  if (ended_at_step <= began_at_step) {
    std::ifstream stream(output_dir / kFile);
    const nlohmann::json before = nlohmann::json::parse(stream, nullptr, false);
    const bool here = before.is_object() && before.value("step", std::int64_t{-1}) == ended_at_step;
    count = 1 + (here ? before.value("starts_without_progress", std::int64_t{0}) : 0);
  }
  write_atomically(output_dir / kFile,
                   nlohmann::json{{"step", ended_at_step}, {"starts_without_progress", count}}.dump() + "\n");
  return count >= kStartsWithoutProgress;
}

void forget_starts(const std::filesystem::path& output_dir) {
  std::error_code there_is_none;
  std::filesystem::remove(output_dir / kFile, there_is_none);
}

}  // namespace tune
