#pragma once
#include <bit>
#include <cstdint>

#include "checkpoints/cpu_clones.h"

// IEEE halves as bits, without branches, so that loops over them become vectors.

namespace tune {

/// Subnormals, infinities and NaN included. Exponent and mantissa are moved into a float whose exponent is 112 too
/// small (127 - 15); the multiplication by 2^112 mends that for subnormals as well.
TUNE_INLINE float from_fp16(std::uint16_t bits) {
  const std::uint32_t magnitude = std::uint32_t{bits & 0x7fffu} << 13;
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112f;
  const std::uint32_t special = (bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;  // infinity or NaN
  const std::uint32_t sign = std::uint32_t{bits & 0x8000u} << 16;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(scaled) | special | sign);
}

/// Nearest, ties to even; NaN stays NaN, 65520 and above become infinite.
TUNE_INLINE std::uint16_t to_fp16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7fffffffu, rebased = magnitude - 0x38000000u;  // exponent bias 127 -> 15
  const std::uint32_t normal = (rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13;
  // below 2^-14: adding 0.5 rounds at bit 2^-24
  const std::uint32_t small = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  const std::uint32_t finite = magnitude < 0x38800000u ? small : normal;
  const std::uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const std::uint32_t rounded = magnitude >= 0x477ff000u ? special : finite;
  return static_cast<std::uint16_t>(((bits >> 16) & 0x8000u) | rounded);
}

}  // namespace tune
