#pragma once
#include <array>
#include <bit>
#include <cstdint>

namespace tune {

/// Values are divided by the largest magnitude of so many, or by kLeastScale where that is less.
inline constexpr std::int64_t kDynamicBlock = 256;
inline constexpr float kLeastScale = 1e-38f;

/// The 8-bit dynamic data type: 256 values, exponents from 1e-6 to 1, each with as many fraction bits as are left.
/// Dettmers 2015, "8-Bit Approximations for Parallelism in Deep Learning"; equal to bitsandbytes' create_dynamic_map(),
/// to the bit.
struct DynamicMap {
  std::array<float, 256> values;     // ascending
  std::array<float, 256> midpoints;  // between a value and the next; behind the last infinity
  /// By the upper half of a float's bits: how many midpoints lie below all floats that have it. At most one more lies
  /// below one of them, for |x| <= 1.
  std::array<std::uint8_t, 1 << 16> first;

  /// The code of the value nearest to x, |x| <= 1 (signed) or 0 <= x <= 1; of two that are equally near the smaller
  /// one.
  std::uint8_t nearest(float x) const {
    const std::uint8_t code = first[std::bit_cast<std::uint32_t>(x) >> 16];
    return static_cast<std::uint8_t>(code + (midpoints[code] < x ? 1 : 0));
  }
};

/// is_signed: -0.993 to 1, else 0 to 1. Built once.
const DynamicMap& dynamic_map(bool is_signed);

}  // namespace tune
