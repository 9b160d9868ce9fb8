#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "train/kernels/cuda.h"
#include "train/kernels/cuda_rows.cuh"

namespace tune::cuda {
namespace {

template <typename P>
__device__ void scale_row(const typename P::Element* x, const typename P::Element* weight, float inv_rms,
                          typename P::Element* y, int hidden) {
  using T = typename P::Element;
  for (int j = threadIdx.x * P::width; j < hidden; j += kThreads * P::width) {
    const P from = load<P>(x + j), w = load<P>(weight + j);
    P to;
#pragma unroll
    for (int i = 0; i < P::width; ++i) to.set(i, w[i] * rounded<T>(from[i] * inv_rms));
    store(y + j, to);
  }
}

// A row is read twice; the second time it comes from the cache. Each thread reads back only what it wrote itself.
template <typename P, typename T = typename P::Element>
__global__ void forward(T* x, const T* delta, const T* weight, T* y, float* inv_rms, int hidden, float eps) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * hidden;
  float squares = 0;
  for (int j = threadIdx.x * P::width; j < hidden; j += kThreads * P::width) {
    P values = load<P>(x + row + j);
    if (delta != nullptr) {
      const P more = load<P>(delta + row + j);
#pragma unroll
      for (int i = 0; i < P::width; ++i) values.set(i, values[i] + more[i]);
      store(x + row + j, values);
    }
#pragma unroll
    for (int i = 0; i < P::width; ++i) squares += values[i] * values[i];
  }
  const float inverse = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(hidden) + eps);
  if (threadIdx.x == 0) inv_rms[blockIdx.x] = inverse;
  scale_row<P>(x + row, weight, inverse, y + row, hidden);
}

template <typename P, typename T = typename P::Element>
__global__ void recompute(const T* x, const T* weight, const float* inv_rms, T* y, int hidden) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * hidden;
  scale_row<P>(x + row, weight, inv_rms[blockIdx.x], y + row, hidden);
}

// With n = x inv_rms and g = weight dy: dx = inv_rms (g - n mean(g n)).
template <typename P, typename T = typename P::Element>
__global__ void backward_add(T* dx, const T* dy, const T* x, const T* weight, const float* inv_rms, int hidden) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * hidden;
  float dot = 0;
  for (int j = threadIdx.x * P::width; j < hidden; j += kThreads * P::width) {
    const P d = load<P>(dy + row + j), w = load<P>(weight + j), v = load<P>(x + row + j);
#pragma unroll
    for (int i = 0; i < P::width; ++i) dot += d[i] * w[i] * v[i];
  }
  const float inverse = inv_rms[blockIdx.x];
  const float along = block_sum(dot) * inverse * inverse / static_cast<float>(hidden);
  for (int j = threadIdx.x * P::width; j < hidden; j += kThreads * P::width) {
    const P d = load<P>(dy + row + j), w = load<P>(weight + j), v = load<P>(x + row + j);
    P sum = load<P>(dx + row + j);
#pragma unroll
    for (int i = 0; i < P::width; ++i) sum.set(i, sum[i] + inverse * (d[i] * w[i] - v[i] * along));
    store(dx + row + j, sum);
  }
}

// d_weight is summed over slabs of so many rows, then over slabs: no atomics, whose order would change from run to run.
constexpr int kSlabRows = 64;

template <typename P, typename T = typename P::Element>
__global__ void d_weight_of_slab(const T* dy, const T* x, const float* inv_rms, float* slabs, int rows, int hidden) {
  const int j = (blockIdx.y * kThreads + threadIdx.x) * P::width;
  if (j >= hidden) return;
  const int begin = blockIdx.x * kSlabRows, end = min(begin + kSlabRows, rows);
  float sums[P::width] = {};
  for (int row = begin; row < end; ++row) {
    const std::int64_t at = static_cast<std::int64_t>(row) * hidden + j;
    const P d = load<P>(dy + at), v = load<P>(x + at);
#pragma unroll
    for (int i = 0; i < P::width; ++i) sums[i] += d[i] * rounded<T>(v[i] * inv_rms[row]);
  }
  for (int i = 0; i < P::width; ++i) slabs[static_cast<std::int64_t>(blockIdx.x) * hidden + j + i] = sums[i];
}

__global__ void add_slabs(const float* slabs, float* d_weight, int count, int hidden) {
  const int j = blockIdx.x * kThreads + threadIdx.x;
  if (j >= hidden) return;
  float sum = 0;
  for (int slab = 0; slab < count; ++slab) sum += slabs[static_cast<std::int64_t>(slab) * hidden + j];
  d_weight[j] += sum;
}

int blocks_for(std::int64_t items, std::int64_t per_block) {
  return static_cast<int>((items + per_block - 1) / per_block);
}

RmsNormResult run_forward(const at::Tensor& x, const at::Tensor* delta, const at::Tensor& weight, double eps) {
  const Launch launch(x);
  RmsNormResult result{at::empty_like(x), at::empty({x.size(0)}, x.options().dtype(at::kFloat))};
  if (x.numel() == 0) return result;
  for_pack(x, x.size(1), [&](auto pack) {
    using P = decltype(pack);
    using T = typename P::Element;
    forward<P><<<x.size(0), kThreads, 0, launch>>>(
        x.data_ptr<T>(), delta != nullptr ? delta->const_data_ptr<T>() : nullptr, weight.const_data_ptr<T>(),
        result.y.template data_ptr<T>(), result.inv_rms.template data_ptr<float>(), x.size(1), static_cast<float>(eps));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return result;
}

}  // namespace

RmsNormResult rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return run_forward(x, nullptr, weight, eps);
}

RmsNormResult add_rms_norm_(at::Tensor& residual, const at::Tensor& delta, const at::Tensor& weight, double eps) {
  return run_forward(residual, &delta, weight, eps);
}

void rms_norm_backward_add_(at::Tensor& dx, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& inv_rms, const at::Tensor& d_weight) {
  const Launch launch(x);
  const std::int64_t rows = x.size(0), hidden = x.size(1);
  if (x.numel() == 0) return;
  for_pack(x, hidden, [&](auto pack) {
    using P = decltype(pack);
    using T = typename P::Element;
    backward_add<P><<<rows, kThreads, 0, launch>>>(dx.data_ptr<T>(), dy.const_data_ptr<T>(), x.const_data_ptr<T>(),
                                                   weight.const_data_ptr<T>(), inv_rms.const_data_ptr<float>(), hidden);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    if (!d_weight.defined()) return;
    const int slabs = blocks_for(rows, kSlabRows);
    const at::Tensor sums = at::empty({slabs, hidden}, d_weight.options());
    const dim3 grid(slabs, blocks_for(hidden, kThreads * P::width));
    d_weight_of_slab<P><<<grid, kThreads, 0, launch>>>(dy.const_data_ptr<T>(), x.const_data_ptr<T>(),
                                                       inv_rms.const_data_ptr<float>(), sums.data_ptr<float>(), rows,
                                                       hidden);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    add_slabs<<<blocks_for(hidden, kThreads), kThreads, 0, launch>>>(sums.const_data_ptr<float>(),
                                                                     d_weight.data_ptr<float>(), slabs, hidden);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

at::Tensor rms_norm_recompute(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& inv_rms) {
  const Launch launch(x);
  at::Tensor y = at::empty_like(x);
  if (x.numel() == 0) return y;
  for_pack(x, x.size(1), [&](auto pack) {
    using P = decltype(pack);
    using T = typename P::Element;
    recompute<P><<<x.size(0), kThreads, 0, launch>>>(x.const_data_ptr<T>(), weight.const_data_ptr<T>(),
                                                     inv_rms.const_data_ptr<float>(), y.data_ptr<T>(), x.size(1));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return y;
}

}  // namespace tune::cuda
