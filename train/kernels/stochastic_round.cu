#include "train/kernels/stochastic_round.h"

#include "train/kernels/cuda.h"
#include "train/kernels/cuda_rows.cuh"

namespace tune::cuda {
namespace {

__global__ void round(std::uint16_t* values, const std::uint32_t* exact, std::uint32_t first, std::int64_t count,
                      std::uint32_t key_low, std::uint32_t key_high) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) values[i] = stochastically_rounded(exact[i], first + static_cast<std::uint32_t>(i), key_low, key_high);
}

}  // namespace

void stochastic_round_(at::Tensor& value, const at::Tensor& exact, std::uint64_t key, std::int64_t first) {
  const std::int64_t count = value.numel();
  if (count == 0) return;
  const Launch launch(value);
  round<<<(count + kThreads - 1) / kThreads, kThreads, 0, launch>>>(
      static_cast<std::uint16_t*>(value.mutable_data_ptr()), static_cast<const std::uint32_t*>(exact.const_data_ptr()),
      static_cast<std::uint32_t>(first), count, static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace tune::cuda
