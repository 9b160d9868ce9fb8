#pragma once
#include <cstdint>
#include <vector>

namespace tune {

/// 0 ... n - 1 in a random order that depends on the arguments alone: the same on every machine, with every compiler,
/// from any position. Fisher-Yates, driven by SplitMix64 (Steele, Lea, Flood 2014) started from seed and epoch.
std::vector<std::int64_t> permutation(std::uint64_t seed, std::uint64_t epoch, std::int64_t n);

}  // namespace tune
