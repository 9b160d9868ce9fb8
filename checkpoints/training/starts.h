#pragma once
#include <cstdint>
#include <filesystem>

namespace tune {

/// So many starts of a run may end interrupted at the step where they began: what starts it again by itself must not do
/// so for ever.
inline constexpr std::int64_t kStartsWithoutProgress = 3;

/// Called when a start ends interrupted. Counts those in a row without progress in output_dir/starts.json; a start with
/// progress begins anew. True from the kStartsWithoutProgress-th on.
bool goes_nowhere(const std::filesystem::path& output_dir, std::int64_t began_at_step, std::int64_t ended_at_step);

/// Forgets them: the run is done, or begins anew.
void forget_starts(const std::filesystem::path& output_dir);

}  // namespace tune
