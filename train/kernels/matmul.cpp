#include "train/kernels/matmul.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "recipes/schema/error.h"

#ifdef TUNE_HAS_MKLDNN_MATMUL
namespace at::native {
// Exported by libtorch_cpu, declared in no installed header: result = beta * result + alpha * mat1 mat2 by oneDNN.
void mkldnn_matmul(const Tensor& mat1, const Tensor& mat2, const Tensor& result, float beta, float alpha);
}  // namespace at::native
#endif

namespace tune {
namespace {

// Multiply-adds from which oneDNN's fp32 product beats MKL's, its set-up of 20 us included: measured on two AMD cores,
// 0.5 M: 43 us against 34, 1.2 M: 56 against 121, 8 M: 96 against 121, 537 M: 5.0 ms against 5.5 ms (load: one core's).
constexpr std::int64_t kSmallProduct = 1 << 20;

// oneDNN has bf16 arithmetic from AVX-512 on.
bool processor_has_bf16() {
  static const bool has =
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return has;
}

// ATen refuses oneDNN's product where it has no bf16, in fp32 as well.
bool onednn_is_allowed() {
#ifdef TUNE_HAS_MKLDNN_MATMUL
  return processor_has_bf16();
#else
  return false;
#endif
}

// On older processors ATen multiplies bf16 one number at a time: 50 times slower than in fp32. What it does with fp16
// differs from one processor to the next; a sum of its products in fp16 would overflow.
bool wants_fp32(const at::Tensor& y) {
  if (!y.is_cpu()) return false;
  return y.scalar_type() == at::kHalf || (y.scalar_type() == at::kBFloat16 && !processor_has_bf16());
}

[[maybe_unused]] bool to_onednn([[maybe_unused]] const at::Tensor& y, [[maybe_unused]] const at::Tensor& a) {
#ifdef TUNE_HAS_MKLDNN_MATMUL
  return onednn_is_allowed() && y.is_cpu() && y.scalar_type() == at::kFloat && y.is_contiguous() &&
         y.numel() * a.size(1) >= kSmallProduct;
#else
  return false;
#endif
}

void check(const at::Tensor& y, const at::Tensor& a, const at::Tensor& b) {
  TUNE_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0), "shapes [{}, {}] and [{}, {}]", a.size(0),
             a.size(-1), b.size(0), b.size(-1));
  TUNE_CHECK(y.dim() == 2 && y.size(0) == a.size(0) && y.size(1) == b.size(1), "y is [{}, {}], the product [{}, {}]",
             y.size(0), y.size(-1), a.size(0), b.size(1));
}

at::Tensor product(const at::Tensor& a, const at::Tensor& b) {
  at::Tensor y = at::empty({a.size(0), b.size(-1)}, a.options());
  matmul_into_(y, a, b);
  return y;
}

}  // namespace

void multiply_through_fp32(at::Tensor& y, const at::Tensor& a, const at::Tensor& b, double beta, double alpha,
                           std::int64_t block) {
  check(y, a, b);
  const std::int64_t columns = std::max<std::int64_t>(1, block / std::max<std::int64_t>(1, b.size(0)));
  const at::Tensor left = a.to(at::kFloat);
  for (std::int64_t first = 0; first < b.size(1); first += columns) {
    const std::int64_t count = std::min(columns, b.size(1) - first);
    const at::Tensor part = y.narrow(1, first, count), right = b.narrow(1, first, count).to(at::kFloat);
    at::Tensor values = at::empty({y.size(0), count}, right.options());
    if (beta == 0) {  // nothing that y held, not even NaN, may count
      matmul_into_(values, left, right);
      values.mul_(alpha);
    } else {
      values.copy_(part).mul_(beta);
      add_matmul_(values, left, right, alpha);
    }
    part.copy_(values);
  }
}

at::Tensor matmul_nt(const at::Tensor& x, const at::Tensor& weight) { return product(x, weight.t()); }
at::Tensor matmul_nn(const at::Tensor& dy, const at::Tensor& weight) { return product(dy, weight); }
at::Tensor matmul_tn(const at::Tensor& dy, const at::Tensor& x) { return product(dy.t(), x); }

void matmul_into_(at::Tensor& y, const at::Tensor& a, const at::Tensor& b) {
  check(y, a, b);
  if (wants_fp32(y)) return multiply_through_fp32(y, a, b, 0, 1);
#ifdef TUNE_HAS_MKLDNN_MATMUL
  if (to_onednn(y, a)) return at::native::mkldnn_matmul(a, b, y, 0.0f, 1.0f);
#endif
  at::mm_out(y, a, b);
}

void add_matmul_(at::Tensor& y, const at::Tensor& a, const at::Tensor& b, double alpha) {
  check(y, a, b);
  if (wants_fp32(y)) return multiply_through_fp32(y, a, b, 1, alpha);
#ifdef TUNE_HAS_MKLDNN_MATMUL
  if (to_onednn(y, a)) return at::native::mkldnn_matmul(a, b, y, 1.0f, static_cast<float>(alpha));
#endif
  y.addmm_(a, b, 1.0, alpha);
}

const char* fp32_matmul_library() { return onednn_is_allowed() ? "oneDNN" : "ATen"; }

}  // namespace tune
