#include <ATen/ops/empty.h>

#include <cfloat>

#include "train/kernels/cuda.h"
#include "train/kernels/cuda_rows.cuh"

namespace tune::cuda {
namespace {

constexpr int kWideBlock = 1024;  // a vocabulary is long and a chunk has few rows

// Sum of e^(x - largest) over the values seen so far, for their largest x. One pass finds both (Milakov & Gimelshein
// 2018). It starts at the lowest float, not at -infinity, whose difference with itself is no number.
struct Softmax {
  float largest, sum;
};
constexpr Softmax kNothing{-FLT_MAX, 0};

__device__ Softmax merge(Softmax a, Softmax b) {
  const float largest = fmaxf(a.largest, b.largest);
  return {largest, a.sum * expf(a.largest - largest) + b.sum * expf(b.largest - largest)};
}

__device__ Softmax partner(Softmax s, int distance) {
  return {cuda::partner(s.largest, distance), cuda::partner(s.sum, distance)};
}

template <typename P, typename T = typename P::Element>
__global__ void __launch_bounds__(kWideBlock)
    cross_entropy(T* logits, const std::int64_t* labels, float* losses, int vocab, float scale, bool want_gradient) {
  logits += static_cast<std::int64_t>(blockIdx.x) * vocab;
  const auto label = static_cast<int>(labels[blockIdx.x]);
  Softmax softmax = kNothing;
  for (int j = threadIdx.x * P::width; j < vocab; j += kWideBlock * P::width) {
    const P x = load<P>(logits + j);
    float largest = softmax.largest;
#pragma unroll
    for (int i = 0; i < P::width; ++i) largest = fmaxf(largest, x[i]);
    float sum = softmax.sum * expf(softmax.largest - largest);
#pragma unroll
    for (int i = 0; i < P::width; ++i) sum += expf(x[i] - largest);
    softmax = {largest, sum};
  }
  softmax = block_reduce(softmax, kNothing, merge);
  const float at_label = static_cast<float>(logits[label]);
  if (threadIdx.x == 0) losses[blockIdx.x] = softmax.largest - at_label + logf(softmax.sum);
  if (!want_gradient) return;
  __syncthreads();  // the label's logit was read before somebody overwrites it
  const float factor = scale / softmax.sum;
  for (int j = threadIdx.x * P::width; j < vocab; j += kWideBlock * P::width) {
    P x = load<P>(logits + j);
#pragma unroll
    for (int i = 0; i < P::width; ++i) {
      const float weight = expf(x[i] - softmax.largest);
      x.set(i, j + i == label ? (weight / softmax.sum - 1.0f) * scale : weight * factor);
    }
    store(logits + j, x);
  }
}

}  // namespace

at::Tensor cross_entropy_(at::Tensor& logits, const at::Tensor& labels, double scale, bool want_gradient) {
  const Launch launch(logits);
  const std::int64_t rows = logits.size(0), vocab = logits.size(1);
  at::Tensor losses = at::empty({rows}, logits.options().dtype(at::kFloat));
  if (rows == 0) return losses;
  for_pack(logits, vocab, [&](auto pack) {
    using P = decltype(pack);
    using T = typename P::Element;
    cross_entropy<P><<<rows, kWideBlock, 0, launch>>>(logits.data_ptr<T>(), labels.const_data_ptr<std::int64_t>(),
                                                      losses.data_ptr<float>(), vocab, static_cast<float>(scale),
                                                      want_gradient);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return losses;
}

}  // namespace tune::cuda
