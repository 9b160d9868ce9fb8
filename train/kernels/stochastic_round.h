#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

#ifdef __CUDACC__
#define TUNE_ROUND_INLINE __host__ __device__ inline
#else
#include "checkpoints/cpu_clones.h"
#define TUNE_ROUND_INLINE TUNE_INLINE
#endif

namespace tune {

/// Stochastic rounding (Gupta et al. 2015): `value` becomes one of the two bf16 numbers around `exact`, with a
/// probability that falls with the distance, so that it is right on average. Which one is a function of (key, place of
/// the element) alone, the same on every device. value [any] bf16 and exact [as value] fp32, contiguous; the places
/// begin at `first`.
void stochastic_round_(at::Tensor& value, const at::Tensor& exact, std::uint64_t key, std::int64_t first = 0);

/// MurmurHash3's finalizer: every bit of x has a say in every bit of the result.
TUNE_ROUND_INLINE std::uint32_t murmur_mixed(std::uint32_t x) {
  x = (x ^ (x >> 16)) * 0x85ebca6bu;
  x = (x ^ (x >> 13)) * 0xc2b2ae35u;
  return x ^ (x >> 16);
}

/// The bits of a float to those of a bf16 number. Adding 16 random bits to those that are cut off carries as often as
/// these are large. Infinity and NaN stay what they are.
TUNE_ROUND_INLINE std::uint16_t stochastically_rounded(std::uint32_t bits, std::uint32_t place, std::uint32_t key_low,
                                                       std::uint32_t key_high) {
  const std::uint32_t random = murmur_mixed(murmur_mixed(place + key_low) ^ key_high) >> 16;
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  const std::uint32_t special = bits | ((bits & 0x7fffffu) != 0 ? 0x400000u : 0u);  // a NaN keeps a bit
  return static_cast<std::uint16_t>((finite ? bits + random : special) >> 16);
}

}  // namespace tune
