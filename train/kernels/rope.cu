#include "train/kernels/cuda.h"
#include "train/kernels/cuda_rows.cuh"

namespace tune::cuda {
namespace {

template <typename P, typename T = typename P::Element>
__global__ void rotate(T* x, std::int64_t row_stride, int heads, int half, const std::int32_t* positions,
                       const float* cosines, const float* sines, float direction) {
  x += blockIdx.x * row_stride;
  const std::int64_t angles = static_cast<std::int64_t>(positions[blockIdx.x]) * half;
  const int packs_of_head = half / P::width;
  for (int item = threadIdx.x; item < heads * packs_of_head; item += kThreads) {
    const int j = item % packs_of_head * P::width;
    T* first = x + item / packs_of_head * 2 * half + j;
    P a = load<P>(first), b = load<P>(first + half);
#pragma unroll
    for (int i = 0; i < P::width; ++i) {
      const float cosine = cosines[angles + j + i], sine = sines[angles + j + i] * direction, left = a[i], right = b[i];
      a.set(i, left * cosine - right * sine);
      b.set(i, right * cosine + left * sine);
    }
    store(first, a);
    store(first + half, b);
  }
}

}  // namespace

void rope_(at::Tensor& x, std::int64_t heads, std::int64_t head_dim, const at::Tensor& positions,
           const RopeTable& table, bool inverse) {
  const Launch launch(x);
  if (x.size(0) == 0) return;
  const std::int64_t half = head_dim / 2;
  // packs must fit half a head and the distance between rows
  const std::int64_t unit = x.stride(0) % 8 == 0 ? half : 1;
  for_pack(x, unit, [&](auto pack) {
    using P = decltype(pack);
    using T = typename P::Element;
    rotate<P><<<x.size(0), kThreads, 0, launch>>>(
        x.data_ptr<T>(), x.stride(0), heads, half, positions.const_data_ptr<std::int32_t>(),
        table.cosine.const_data_ptr<float>(), table.sine.const_data_ptr<float>(), inverse ? -1.0f : 1.0f);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

}  // namespace tune::cuda
