#include "data/order.h"

#include <numeric>
#include <utility>

namespace tune {

namespace {

constexpr std::uint64_t kGoldenGamma = 0x9E3779B97F4A7C15;

std::uint64_t mixed(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

}  // namespace

std::vector<std::int64_t> permutation(std::uint64_t seed, std::uint64_t epoch, std::int64_t n) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  // mixed twice, so that neighbouring seeds and epochs have nothing in common
  std::uint64_t state = mixed(mixed(seed + kGoldenGamma) + epoch + kGoldenGamma);
  for (std::uint64_t left = order.size(); left > 1; --left) {
    state += kGoldenGamma;
    // The high half of the product is uniform over [0, left) to within left / 2^64.
    const auto chosen = static_cast<std::uint64_t>((static_cast<unsigned __int128>(mixed(state)) * left) >> 64);
    std::swap(order[left - 1], order[chosen]);
  }
  return order;
}

}  // namespace tune
