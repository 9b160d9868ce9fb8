#pragma once
#include <cstdint>
#include <vector>

namespace tune {

/// Rows of one data set as the mixing sees them.
struct MixedSource {
  std::vector<std::int64_t> rows;
  double weight = 1.0;
};

/// The rows of an epoch in the order in which they are dealt out; depends on the arguments alone.
///
/// Each source is an endless row of shuffled passes over its rows, of which every epoch takes the next weight x rows:
/// weight 1 = every row once, 2 = twice, 0.5 = half of the rows and in the next epoch the other half. What the sources
/// give is shuffled together.
std::vector<std::int64_t> rows_of_epoch(const std::vector<MixedSource>& sources, std::uint64_t seed,
                                        std::int64_t epoch);

}  // namespace tune
