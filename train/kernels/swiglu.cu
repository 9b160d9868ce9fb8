#include <ATen/ops/empty.h>

#include "train/kernels/cuda.h"
#include "train/kernels/cuda_rows.cuh"

namespace tune::cuda {
namespace {

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <typename P, typename T = typename P::Element>
__global__ void forward(const T* gate_up, T* y, int intermediate) {
  const T *gate = gate_up + static_cast<std::int64_t>(blockIdx.x) * 2 * intermediate, *up = gate + intermediate;
  y += static_cast<std::int64_t>(blockIdx.x) * intermediate;
  for (int j = threadIdx.x * P::width; j < intermediate; j += kThreads * P::width) {
    const P g = load<P>(gate + j), u = load<P>(up + j);
    P product;
#pragma unroll
    for (int i = 0; i < P::width; ++i) product.set(i, g[i] * sigmoid(g[i]) * u[i]);
    store(y + j, product);
  }
}

template <typename P, typename T = typename P::Element>
__global__ void backward(T* gate_up, const T* d_y, int intermediate) {
  T *gate = gate_up + static_cast<std::int64_t>(blockIdx.x) * 2 * intermediate, *up = gate + intermediate;
  d_y += static_cast<std::int64_t>(blockIdx.x) * intermediate;
  for (int j = threadIdx.x * P::width; j < intermediate; j += kThreads * P::width) {
    P gates = load<P>(gate + j), ups = load<P>(up + j);
    const P gradient = load<P>(d_y + j);
#pragma unroll
    for (int i = 0; i < P::width; ++i) {
      const float g = gates[i], u = ups[i], d = gradient[i], s = sigmoid(g);
      gates.set(i, d * u * s * (1.0f + g * (1.0f - s)));
      ups.set(i, d * g * s);
    }
    store(gate + j, gates);
    store(up + j, ups);
  }
}

}  // namespace

at::Tensor swiglu(const at::Tensor& gate_up) {
  const Launch launch(gate_up);
  const std::int64_t tokens = gate_up.size(0), intermediate = gate_up.size(1) / 2;
  at::Tensor y = at::empty({tokens, intermediate}, gate_up.options());
  if (y.numel() == 0) return y;
  for_pack(gate_up, intermediate, [&](auto pack) {
    using P = decltype(pack);
    using T = typename P::Element;
    forward<P><<<tokens, kThreads, 0, launch>>>(gate_up.const_data_ptr<T>(), y.data_ptr<T>(), intermediate);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return y;
}

void swiglu_backward_(at::Tensor& gate_up, const at::Tensor& d_y) {
  const Launch launch(gate_up);
  const std::int64_t tokens = gate_up.size(0), intermediate = gate_up.size(1) / 2;
  if (d_y.numel() == 0) return;
  for_pack(gate_up, intermediate, [&](auto pack) {
    using P = decltype(pack);
    using T = typename P::Element;
    backward<P><<<tokens, kThreads, 0, launch>>>(gate_up.data_ptr<T>(), d_y.const_data_ptr<T>(), intermediate);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

}  // namespace tune::cuda
