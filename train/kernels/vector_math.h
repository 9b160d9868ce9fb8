#pragma once
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <bit>
#include <cstdint>
#include <limits>

#include "checkpoints/cpu_clones.h"
#include "checkpoints/fp16.h"

// Scalar building blocks that the compiler vectorises inside `#pragma omp simd` loops, in functions marked
// TUNE_CPU_CLONES.

namespace tune {

TUNE_INLINE float to_float(float x) { return x; }
TUNE_INLINE float to_float(c10::BFloat16 x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x.x) << 16); }
TUNE_INLINE float to_float(c10::Half x) { return from_fp16(x.x); }

/// Nearest, ties to even; NaN stays NaN: ATen's rounding, to the bit.
template <typename T>
T from_float(float x);
template <>
TUNE_INLINE float from_float<float>(float x) {
  return x;
}
template <>
TUNE_INLINE c10::BFloat16 from_float<c10::BFloat16>(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return {static_cast<std::uint16_t>(x != x ? 0x7fc0u : rounded), c10::BFloat16::from_bits()};
}
template <>
TUNE_INLINE c10::Half from_float<c10::Half>(float x) {
  return {to_fp16(x), c10::Half::from_bits()};
}

/// e^x within 2 units in the last place; 0 below -87.3 (no subnormal results), infinity above 88.7.
/// Cody-Waite reduction x = n ln 2 + r, |r| <= ln 2 / 2, and Cephes' polynomial for e^r.
TUNE_INLINE float fast_exp(float x) {
  constexpr float kLowest = -87.33654f, kHighest = 88.72283f, kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds
  const float bounded = x < kLowest ? kLowest : (x > kHighest ? kHighest : x);
  const float shifted = bounded * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // 2^n in two halves: n reaches 128, which one exponent cannot hold
  const std::int32_t whole = std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(kRound);
  const std::int32_t half = whole >> 1;
  const float low = std::bit_cast<float>((half + 127) << 23), high = std::bit_cast<float>((whole - half + 127) << 23);
  const float y = p * low * high;
  return x < kLowest ? 0.0f : (x > kHighest ? std::numeric_limits<float>::infinity() : (x != x ? x : y));
}

TUNE_INLINE float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

}  // namespace tune
