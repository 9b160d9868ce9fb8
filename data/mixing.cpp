#include "data/mixing.h"

#include <cmath>

#include "data/order.h"

namespace tune {

namespace {

// Where the endless row of a source stands when the epoch begins.
std::int64_t position_at(const MixedSource& source, std::int64_t epoch) {
  return std::llround(static_cast<double>(epoch) * source.weight * static_cast<double>(source.rows.size()));
}

}  // namespace

std::vector<std::int64_t> rows_of_epoch(const std::vector<MixedSource>& sources, std::uint64_t seed,
                                        std::int64_t epoch) {
  std::vector<std::int64_t> rows;
  for (std::size_t number = 0; number < sources.size(); ++number) {
    const MixedSource& source = sources[number];
    const auto n = static_cast<std::int64_t>(source.rows.size());
    const std::int64_t end = position_at(source, epoch + 1);
    std::vector<std::int64_t> pass;
    for (std::int64_t position = position_at(source, epoch); position < end; ++position) {
      if (pass.empty() || position % n == 0)
        pass = permutation(seed + number + 1, static_cast<std::uint64_t>(position / n), n);
      rows.push_back(source.rows[static_cast<std::size_t>(pass[static_cast<std::size_t>(position % n)])]);
    }
  }
  const auto order = permutation(seed, static_cast<std::uint64_t>(epoch), static_cast<std::int64_t>(rows.size()));
  std::vector<std::int64_t> mixed;
  mixed.reserve(rows.size());
  for (const std::int64_t i : order) mixed.push_back(rows[static_cast<std::size_t>(i)]);
  return mixed;
}

}  // namespace tune
