#include "train/kernels/adamw_8bit.h"

#include <algorithm>

#include "checkpoints/quantize/dynamic_map.h"
#include "train/kernels/cuda.h"
#include "train/kernels/cuda_rows.cuh"

namespace tune::cuda {
namespace {

struct Map {
  float values[256];
};

Map map_of(bool is_signed) {
  Map map;
  std::copy(dynamic_map(is_signed).values.begin(), dynamic_map(is_signed).values.end(), map.values);
  return map;
}

// How many midpoints lie below x.
__device__ std::uint8_t nearest(const float* map, float x) {
  int low = 0;
  for (int half = 128; half > 0; half /= 2) {
    const int next = low + half;
    if ((map[next - 1] + map[next]) / 2.0f < x) low = next;
  }
  return static_cast<std::uint8_t>(low);
}

// A thread a value, a block of threads a block of values.
__global__ void step(float* master, const float* gradient, std::uint8_t* codes_1, std::uint8_t* codes_2,
                     float* largest_1, float* largest_2, std::int64_t values, Map signed_map, Map unsigned_map,
                     AdamWFactors f) {
  __shared__ float map_1[256], map_2[256];
  map_1[threadIdx.x] = signed_map.values[threadIdx.x];
  map_2[threadIdx.x] = unsigned_map.values[threadIdx.x];
  __syncthreads();
  const std::int64_t block = blockIdx.x, i = block * kThreads + threadIdx.x;
  const bool there = i < values;
  float m = 0, v = 0;
  if (there) {
    const float g = gradient[i];
    m = map_1[codes_1[i]] * largest_1[block] * f.beta_1 + g * f.rest_1;
    v = map_2[codes_2[i]] * largest_2[block] * f.beta_2 + g * g * f.rest_2;
    master[i] = master[i] * f.shrink - f.rate * (m / (sqrtf(v) * f.inverse_root_2 + f.epsilon));
  }
  const auto larger = [](float a, float b) { return fmaxf(a, b); };
  const float most_1 = block_reduce(fabsf(m), 0.0f, larger), most_2 = block_reduce(v, 0.0f, larger);
  if (there) {
    codes_1[i] = nearest(map_1, fminf(fmaxf(m * (1.0f / fmaxf(most_1, kLeastScale)), -1.0f), 1.0f));
    codes_2[i] = nearest(map_2, fminf(v * (1.0f / fmaxf(most_2, kLeastScale)), 1.0f));
  }
  if (threadIdx.x == 0) {
    largest_1[block] = most_1;
    largest_2[block] = most_2;
  }
}

}  // namespace

void adamw_8bit_(at::Tensor& master, const at::Tensor& gradient, Moments8bit& moments, const AdamWStep& options) {
  static_assert(kThreads == kDynamicBlock);
  if (master.numel() == 0) return;
  const Launch launch(master);
  step<<<moments.largest_1.numel(), kThreads, 0, launch>>>(
      master.data_ptr<float>(), gradient.const_data_ptr<float>(), moments.codes_1.data_ptr<std::uint8_t>(),
      moments.codes_2.data_ptr<std::uint8_t>(), moments.largest_1.data_ptr<float>(),
      moments.largest_2.data_ptr<float>(), master.numel(), map_of(true), map_of(false), AdamWFactors(options));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace tune::cuda
