#include "data/dealing.h"

#include <algorithm>
#include <numeric>

namespace tune {

double cost_of_row(std::int64_t tokens) {
  // 7B: a layer's linear part takes 405 Mflop a token, attention 8,192 flop for each token before it.
  constexpr double kAttentionAsDearAsTheRest = 49'000;
  const auto length = static_cast<double>(tokens);
  return length + length * length / kAttentionAsDearAsTheRest;
}

std::vector<std::vector<std::int64_t>> deal(std::span<const double> costs, std::int64_t ranks) {
  std::vector<std::int64_t> dearest_first(costs.size());
  std::iota(dearest_first.begin(), dearest_first.end(), std::int64_t{0});
  const auto cost = [&](std::int64_t piece) { return costs[static_cast<std::size_t>(piece)]; };
  std::stable_sort(dearest_first.begin(), dearest_first.end(),
                   [&](std::int64_t a, std::int64_t b) { return cost(a) > cost(b); });
  std::vector<std::vector<std::int64_t>> shares(static_cast<std::size_t>(ranks));
  std::vector<double> work(shares.size());
  // The number of pieces is even to within one: after each round of `ranks` pieces everybody has the same.
  const auto pieces = static_cast<std::int64_t>(costs.size());
  for (std::int64_t begin = 0; begin < pieces; begin += ranks) {
    std::vector<std::size_t> least_work_first(shares.size());
    std::iota(least_work_first.begin(), least_work_first.end(), std::size_t{0});
    std::stable_sort(least_work_first.begin(), least_work_first.end(),
                     [&](std::size_t a, std::size_t b) { return work[a] < work[b]; });
    for (std::int64_t i = begin; i < std::min(begin + ranks, pieces); ++i) {
      const std::int64_t piece = dearest_first[static_cast<std::size_t>(i)];
      const std::size_t rank = least_work_first[static_cast<std::size_t>(i - begin)];
      shares[rank].push_back(piece);
      work[rank] += cost(piece);
    }
  }
  for (auto& share : shares) std::sort(share.begin(), share.end());
  return shares;
}

}  // namespace tune
