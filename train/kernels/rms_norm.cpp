#include "train/kernels/rms_norm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>

#include "recipes/schema/error.h"
#include "train/kernels/cpu_rows.h"
#include "train/kernels/cuda.h"
#include "train/kernels/vector_math.h"

namespace tune {
namespace {

// d_weight is summed over slabs of so many rows and then over slabs, so its bits do not depend on the thread count.
constexpr std::int64_t kSlabRows = 32;

template <typename T>
struct Forward {
  T* x;            // the residual stream; written where delta is there
  const T* delta;  // may be null
  const T* weight;
  T* y;
  float* inv_rms;
  std::int64_t hidden;
  float eps;
};

template <typename T>
struct Backward {
  T* dx;
  const T *dy, *x, *weight;
  const float* inv_rms;
  float* d_weight_slabs;  // may be null
  std::int64_t rows, hidden;
};

template <typename T>
TUNE_INLINE void scale_row(const T* x, const T* weight, float inv_rms, T* y, std::int64_t hidden) {
#pragma omp simd
  for (std::int64_t j = 0; j < hidden; ++j)
    y[j] = from_float<T>(to_float(weight[j]) * to_float(from_float<T>(to_float(x[j]) * inv_rms)));
}

template <typename T>
TUNE_INLINE void forward_rows(const Forward<T>& f, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    T* x = f.x + i * f.hidden;
    if (f.delta != nullptr) {
      const T* delta = f.delta + i * f.hidden;
#pragma omp simd
      for (std::int64_t j = 0; j < f.hidden; ++j) x[j] = from_float<T>(to_float(x[j]) + to_float(delta[j]));
    }
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (std::int64_t j = 0; j < f.hidden; ++j) squares += to_float(x[j]) * to_float(x[j]);
    const float inv_rms = 1.0f / std::sqrt(squares / static_cast<float>(f.hidden) + f.eps);
    f.inv_rms[i] = inv_rms;
    scale_row(x, f.weight, inv_rms, f.y + i * f.hidden, f.hidden);
  }
}

// With n = x inv_rms and g = weight dy: dx = inv_rms (g - n mean(g n)).
template <typename T>
TUNE_INLINE void backward_slabs(const Backward<T>& b, std::int64_t begin, std::int64_t end) {
  const std::int64_t hidden = b.hidden;
  for (std::int64_t i = begin * kSlabRows; i < std::min(end * kSlabRows, b.rows); ++i) {
    const T *dy = b.dy + i * hidden, *x = b.x + i * hidden;
    T* dx = b.dx + i * hidden;
    const float inv_rms = b.inv_rms[i];
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (std::int64_t j = 0; j < hidden; ++j) dot += to_float(dy[j]) * to_float(b.weight[j]) * to_float(x[j]);
    const float along = dot * inv_rms * inv_rms / static_cast<float>(hidden);
#pragma omp simd
    for (std::int64_t j = 0; j < hidden; ++j) {
      const float g = to_float(dy[j]) * to_float(b.weight[j]);
      dx[j] = from_float<T>(to_float(dx[j]) + inv_rms * (g - to_float(x[j]) * along));
    }
    if (b.d_weight_slabs == nullptr) continue;
    float* d_weight = b.d_weight_slabs + i / kSlabRows * hidden;
#pragma omp simd
    for (std::int64_t j = 0; j < hidden; ++j)
      d_weight[j] += to_float(dy[j]) * to_float(from_float<T>(to_float(x[j]) * inv_rms));
  }
}

template <typename T>
TUNE_INLINE void recompute_rows(const Forward<T>& f, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i)
    scale_row(f.x + i * f.hidden, f.weight, f.inv_rms[i], f.y + i * f.hidden, f.hidden);
}

using BFloat16 = c10::BFloat16;
using Half = c10::Half;
TUNE_CPU_CLONES void forward(const Forward<float>& f, std::int64_t begin, std::int64_t end) {
  forward_rows(f, begin, end);
}
TUNE_CPU_CLONES void forward(const Forward<BFloat16>& f, std::int64_t begin, std::int64_t end) {
  forward_rows(f, begin, end);
}
TUNE_CPU_CLONES void forward(const Forward<Half>& f, std::int64_t begin, std::int64_t end) {
  forward_rows(f, begin, end);
}
TUNE_CPU_CLONES void recompute(const Forward<float>& f, std::int64_t begin, std::int64_t end) {
  recompute_rows(f, begin, end);
}
TUNE_CPU_CLONES void recompute(const Forward<BFloat16>& f, std::int64_t begin, std::int64_t end) {
  recompute_rows(f, begin, end);
}
TUNE_CPU_CLONES void recompute(const Forward<Half>& f, std::int64_t begin, std::int64_t end) {
  recompute_rows(f, begin, end);
}
TUNE_CPU_CLONES void backward(const Backward<float>& b, std::int64_t begin, std::int64_t end) {
  backward_slabs(b, begin, end);
}
TUNE_CPU_CLONES void backward(const Backward<BFloat16>& b, std::int64_t begin, std::int64_t end) {
  backward_slabs(b, begin, end);
}
TUNE_CPU_CLONES void backward(const Backward<Half>& b, std::int64_t begin, std::int64_t end) {
  backward_slabs(b, begin, end);
}

void check(const at::Tensor& x, const at::Tensor& weight) {
  TUNE_CHECK(x.dim() == 2 && x.is_contiguous(), "x has {} axes or is not contiguous", x.dim());
  TUNE_CHECK(weight.dim() == 1 && weight.size(0) == x.size(1) && weight.is_contiguous(),
             "weight has {} values, x {} columns", weight.numel(), x.size(1));
  TUNE_CHECK(weight.scalar_type() == x.scalar_type() && weight.device() == x.device(),
             "weight and x differ in type or device");
}

RmsNormResult forward_on_cpu(const at::Tensor& x, const at::Tensor* delta, const at::Tensor& weight, double eps) {
  RmsNormResult result{at::empty_like(x), at::empty({x.size(0)}, x.options().dtype(at::kFloat))};
  for_type(x, [&](auto zero) {
    using T = decltype(zero);
    const Forward<T> f{.x = x.data_ptr<T>(),
                       .delta = delta != nullptr ? delta->const_data_ptr<T>() : nullptr,
                       .weight = weight.const_data_ptr<T>(),
                       .y = result.y.template data_ptr<T>(),
                       .inv_rms = result.inv_rms.template data_ptr<float>(),
                       .hidden = x.size(1),
                       .eps = static_cast<float>(eps)};
    at::parallel_for(0, x.size(0), rows_per_task(x.size(1)),
                     [&](std::int64_t begin, std::int64_t end) { forward(f, begin, end); });
  });
  return result;
}

}  // namespace

RmsNormResult rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  check(x, weight);
  return x.is_cuda() ? cuda::rms_norm(x, weight, eps) : forward_on_cpu(x, nullptr, weight, eps);
}

RmsNormResult add_rms_norm_(at::Tensor& residual, const at::Tensor& delta, const at::Tensor& weight, double eps) {
  check(residual, weight);
  TUNE_CHECK(
      delta.sizes() == residual.sizes() && delta.scalar_type() == residual.scalar_type() && delta.is_contiguous(),
      "delta has {} values, residual {}", delta.numel(), residual.numel());
  if (residual.is_cuda()) return cuda::add_rms_norm_(residual, delta, weight, eps);
  return forward_on_cpu(residual, &delta, weight, eps);
}

void rms_norm_backward_add_(at::Tensor& dx, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& inv_rms, at::Tensor d_weight) {
  check(x, weight);
  TUNE_CHECK(dx.sizes() == x.sizes() && dy.sizes() == x.sizes() && dx.is_contiguous() && dy.is_contiguous(),
             "dx, dy and x differ in shape");
  TUNE_CHECK(dx.scalar_type() == x.scalar_type() && dy.scalar_type() == x.scalar_type() &&
                 inv_rms.scalar_type() == at::kFloat && inv_rms.numel() == x.size(0),
             "dx, dy and x differ in type, or inv_rms is not [tokens] fp32");
  TUNE_CHECK(!d_weight.defined() || (d_weight.scalar_type() == at::kFloat && d_weight.numel() == x.size(1)),
             "d_weight is not [hidden] fp32");
  if (x.is_cuda()) return cuda::rms_norm_backward_add_(dx, dy, x, weight, inv_rms, d_weight);
  const std::int64_t slabs = (x.size(0) + kSlabRows - 1) / kSlabRows;
  at::Tensor d_weight_slabs;
  if (d_weight.defined()) d_weight_slabs = at::zeros({slabs, x.size(1)}, d_weight.options());
  for_type(x, [&](auto zero) {
    using T = decltype(zero);
    const Backward<T> b{.dx = dx.data_ptr<T>(),
                        .dy = dy.const_data_ptr<T>(),
                        .x = x.const_data_ptr<T>(),
                        .weight = weight.const_data_ptr<T>(),
                        .inv_rms = inv_rms.const_data_ptr<float>(),
                        .d_weight_slabs = d_weight.defined() ? d_weight_slabs.data_ptr<float>() : nullptr,
                        .rows = x.size(0),
                        .hidden = x.size(1)};
    at::parallel_for(0, slabs, 1, [&](std::int64_t begin, std::int64_t end) { backward(b, begin, end); });
  });
  if (d_weight.defined()) d_weight.add_(d_weight_slabs.sum(0));
}

at::Tensor rms_norm_recompute(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& inv_rms) {
  check(x, weight);
  if (x.is_cuda()) return cuda::rms_norm_recompute(x, weight, inv_rms);
  at::Tensor y = at::empty_like(x);
  for_type(x, [&](auto zero) {
    using T = decltype(zero);
    const Forward<T> f{.x = x.data_ptr<T>(),
                       .delta = nullptr,
                       .weight = weight.const_data_ptr<T>(),
                       .y = y.data_ptr<T>(),
                       .inv_rms = inv_rms.data_ptr<float>(),
                       .hidden = x.size(1),
                       .eps = 0};
    at::parallel_for(0, x.size(0), rows_per_task(x.size(1)),
                     [&](std::int64_t begin, std::int64_t end) { recompute(f, begin, end); });
  });
  return y;
}

at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.to(at::promote_types(x.scalar_type(), at::kFloat));
  const at::Tensor normed = wide * at::rsqrt(wide.pow(2).mean(-1, true) + eps);
  return weight * normed.to(x.scalar_type());
}

}  // namespace tune
