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

SplitMix64::SplitMix64(std::uint64_t key, std::uint64_t second_key)
    : state_(mixed(mixed(key + kGoldenGamma) + second_key + kGoldenGamma)) {}

std::uint64_t SplitMix64::next() { return mixed(state_ += kGoldenGamma); }

// The high half of the product.
std::uint64_t SplitMix64::below(std::uint64_t n) {
  return static_cast<std::uint64_t>((static_cast<unsigned __int128>(next()) * n) >> 64);
}

double SplitMix64::share() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

std::vector<std::int64_t> permutation(std::uint64_t seed, std::uint64_t epoch, std::int64_t n) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  SplitMix64 random(seed, epoch);
  for (std::uint64_t left = order.size(); left > 1; --left) std::swap(order[left - 1], order[random.below(left)]);
  return order;
}

}  // namespace tune
