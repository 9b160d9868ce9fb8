#include "train/kernels/swiglu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "train/kernels/cpu_rows.h"
#include "train/kernels/cuda.h"
#include "train/kernels/vector_math.h"

namespace tune {
namespace {

template <typename T>
struct Rows {
  T* gate_up;  // forward: read only
  const T* d_y;
  T* y;
  std::int64_t intermediate;
};

template <typename T>
TUNE_INLINE void forward_rows(const Rows<T>& r, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    const T *gate = r.gate_up + i * 2 * r.intermediate, *up = gate + r.intermediate;
    T* y = r.y + i * r.intermediate;
#pragma omp simd
    for (std::int64_t j = 0; j < r.intermediate; ++j) {
      const float g = to_float(gate[j]);
      y[j] = from_float<T>(g * sigmoid(g) * to_float(up[j]));
    }
  }
}

template <typename T>
TUNE_INLINE void backward_rows(const Rows<T>& r, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    T *gate = r.gate_up + i * 2 * r.intermediate, *up = gate + r.intermediate;
    const T* d_y = r.d_y + i * r.intermediate;
#pragma omp simd
    for (std::int64_t j = 0; j < r.intermediate; ++j) {
      const float g = to_float(gate[j]), u = to_float(up[j]), d = to_float(d_y[j]), s = sigmoid(g);
      gate[j] = from_float<T>(d * u * s * (1.0f + g * (1.0f - s)));
      up[j] = from_float<T>(d * g * s);
    }
  }
}

using BFloat16 = c10::BFloat16;
using Half = c10::Half;
TUNE_CPU_CLONES void forward(const Rows<float>& r, std::int64_t begin, std::int64_t end) {
  forward_rows(r, begin, end);
}
TUNE_CPU_CLONES void forward(const Rows<BFloat16>& r, std::int64_t begin, std::int64_t end) {
  forward_rows(r, begin, end);
}
TUNE_CPU_CLONES void forward(const Rows<Half>& r, std::int64_t begin, std::int64_t end) { forward_rows(r, begin, end); }
TUNE_CPU_CLONES void backward(const Rows<float>& r, std::int64_t begin, std::int64_t end) {
  backward_rows(r, begin, end);
}
TUNE_CPU_CLONES void backward(const Rows<BFloat16>& r, std::int64_t begin, std::int64_t end) {
  backward_rows(r, begin, end);
}
TUNE_CPU_CLONES void backward(const Rows<Half>& r, std::int64_t begin, std::int64_t end) {
  backward_rows(r, begin, end);
}

void check(const at::Tensor& gate_up) {
  TUNE_CHECK(gate_up.dim() == 2 && gate_up.size(1) % 2 == 0 && gate_up.is_contiguous(),
             "gate_up is not a contiguous [tokens, 2 * intermediate]");
}

}  // namespace

at::Tensor swiglu(const at::Tensor& gate_up) {
  check(gate_up);
  if (gate_up.is_cuda()) return cuda::swiglu(gate_up);
  const std::int64_t tokens = gate_up.size(0), intermediate = gate_up.size(1) / 2;
  at::Tensor y = at::empty({tokens, intermediate}, gate_up.options());
  for_type(gate_up, [&](auto zero) {
    using T = decltype(zero);
    const Rows<T> r{gate_up.data_ptr<T>(), nullptr, y.data_ptr<T>(), intermediate};
    at::parallel_for(0, tokens, rows_per_task(intermediate),
                     [&](std::int64_t begin, std::int64_t end) { forward(r, begin, end); });
  });
  return y;
}

void swiglu_backward_(at::Tensor& gate_up, const at::Tensor& d_y) {
  check(gate_up);
  const std::int64_t tokens = gate_up.size(0), intermediate = gate_up.size(1) / 2;
  TUNE_CHECK(d_y.dim() == 2 && d_y.size(0) == tokens && d_y.size(1) == intermediate && d_y.is_contiguous() &&
                 d_y.scalar_type() == gate_up.scalar_type(),
             "d_y is not [{}, {}] in gate_up's type", tokens, intermediate);
  if (gate_up.is_cuda()) return cuda::swiglu_backward_(gate_up, d_y);
  for_type(gate_up, [&](auto zero) {
    using T = decltype(zero);
    const Rows<T> r{gate_up.data_ptr<T>(), d_y.const_data_ptr<T>(), nullptr, intermediate};
    at::parallel_for(0, tokens, rows_per_task(intermediate),
                     [&](std::int64_t begin, std::int64_t end) { backward(r, begin, end); });
  });
}

at::Tensor swiglu_reference(const at::Tensor& gate_up) {
  const auto halves = gate_up.to(at::promote_types(gate_up.scalar_type(), at::kFloat)).chunk(2, -1);
  return (at::silu(halves[0]) * halves[1]).to(gate_up.scalar_type());
}

}  // namespace tune
