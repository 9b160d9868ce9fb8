#include "train/kernels/stochastic_round.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "recipes/schema/error.h"
#include "train/kernels/cuda.h"

namespace tune {
namespace {

TUNE_CPU_CLONES void round(std::uint16_t* values, const std::uint32_t* exact, std::uint32_t first, std::int64_t count,
                           std::uint32_t key_low, std::uint32_t key_high) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i)
    values[i] = stochastically_rounded(exact[i], first + static_cast<std::uint32_t>(i), key_low, key_high);
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
