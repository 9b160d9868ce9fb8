#pragma once
#include <cstdint>
#include <vector>

namespace tune {

/// Random numbers that are the same on every machine, with every compiler: SplitMix64 (Steele, Lea, Flood 2014). Two
/// keys, so that neighbouring ones of either have nothing in common.
class SplitMix64 {
 public:
  SplitMix64(std::uint64_t key, std::uint64_t second_key);
  std::uint64_t next();
  std::uint64_t below(std::uint64_t n);  // uniform over [0, n) to within n / 2^64
  double share();                        // uniform over [0, 1)

 private:
  std::uint64_t state_;
};

/// 0 ... n - 1 in a random order that depends on the arguments alone: the same on every machine, with every compiler,
/// from any position. Fisher-Yates, driven by SplitMix64.
std::vector<std::int64_t> permutation(std::uint64_t seed, std::uint64_t epoch, std::int64_t n);

}  // namespace tune
