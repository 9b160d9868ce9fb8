#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>

namespace tune {

/// output_dir/checkpoint-<step>
std::filesystem::path checkpoint_path(const std::filesystem::path& output_dir, std::int64_t step);

/// The folders with that name, by step; none of them is opened. Empty when output_dir doesn't exist.
std::map<std::int64_t, std::filesystem::path> list_checkpoints(const std::filesystem::path& output_dir);

/// Removes the oldest checkpoints until save_total_limit are left (0 = keep all), and what dead processes left behind.
/// The newest one and that of step `best` are never removed. Called after a save, by the holder of the OutputLock.
void retain_checkpoints(const std::filesystem::path& output_dir, std::int64_t save_total_limit,
                        std::optional<std::int64_t> best = std::nullopt);

/// Removes all checkpoints: a run that begins anew must not be continued from an older one's.
void remove_checkpoints(const std::filesystem::path& output_dir);

}  // namespace tune
