#include "train/kernels/stochastic_round.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <bit>

#include "recipes/schema/error.h"
#include "train/kernels/cuda.h"
#include "train/kernels/vector_math.h"

namespace tune {
namespace {

// MurmurHash3's finalizer: every bit of x has a say in every bit of the result.
TUNE_INLINE std::uint32_t mixed(std::uint32_t x) {
  x = (x ^ (x >> 16)) * 0x85ebca6bu;
  x = (x ^ (x >> 13)) * 0xc2b2ae35u;
  return x ^ (x >> 16);
}

// Adding 16 random bits to those that are cut off carries as often as these are large. Infinity and NaN stay what they
// are.
TUNE_CPU_CLONES void round(std::uint16_t* values, const std::uint32_t* exact, std::uint32_t first, std::int64_t count,
                           std::uint32_t key_low, std::uint32_t key_high) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t place = first + static_cast<std::uint32_t>(i);
    const std::uint32_t random = mixed(mixed(place + key_low) ^ key_high) >> 16, bits = exact[i];
    const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
    const std::uint32_t special = bits | ((bits & 0x7fffffu) != 0 ? 0x400000u : 0u);  // a NaN keeps a bit
    values[i] = static_cast<std::uint16_t>((finite ? bits + random : special) >> 16);
  }
}

}  // namespace

void stochastic_round_(at::Tensor& value, const at::Tensor& exact, std::uint64_t key, std::int64_t first) {
  TUNE_CHECK(value.scalar_type() == at::kBFloat16 && exact.scalar_type() == at::kFloat && value.is_contiguous() &&
                 exact.is_contiguous() && value.numel() == exact.numel(),
             "not contiguous bf16 and fp32 of {} values", value.numel());
  if (value.is_cuda()) return cuda::stochastic_round_(value, exact, key, first);
  auto* values = static_cast<std::uint16_t*>(value.mutable_data_ptr());
  const auto* bits = static_cast<const std::uint32_t*>(exact.const_data_ptr());
  constexpr std::int64_t kValuesPerTask = 1 << 15;
  at::parallel_for(0, value.numel(), kValuesPerTask, [&](std::int64_t begin, std::int64_t end) {
    round(values + begin, bits + begin, static_cast<std::uint32_t>(first + begin), end - begin,
          static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32));
  });
}

}  // namespace tune
