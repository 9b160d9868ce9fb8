#include "train/kernels/matmul.h"

#include <ATen/ATen.h>

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

// ATen refuses it, in fp32 too, where oneDNN has no bf16 arithmetic: on processors before AVX-512.
bool onednn_is_allowed() {
#ifdef TUNE_HAS_MKLDNN_MATMUL
  static const bool allowed = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                              __builtin_cpu_supports("avx512dq");
  return allowed;
#else
  return false;
#endif
}

bool to_onednn([[maybe_unused]] const at::Tensor& y, [[maybe_unused]] const at::Tensor& a) {
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

at::Tensor matmul_nt(const at::Tensor& x, const at::Tensor& weight) { return product(x, weight.t()); }
at::Tensor matmul_nn(const at::Tensor& dy, const at::Tensor& weight) { return product(dy, weight); }
at::Tensor matmul_tn(const at::Tensor& dy, const at::Tensor& x) { return product(dy.t(), x); }

void matmul_into_(at::Tensor& y, const at::Tensor& a, const at::Tensor& b) {
  check(y, a, b);
#ifdef TUNE_HAS_MKLDNN_MATMUL
  if (to_onednn(y, a)) return at::native::mkldnn_matmul(a, b, y, 0.0f, 1.0f);
#endif
  at::mm_out(y, a, b);
}

void add_matmul_(at::Tensor& y, const at::Tensor& a, const at::Tensor& b, double alpha) {
  check(y, a, b);
#ifdef TUNE_HAS_MKLDNN_MATMUL
  if (to_onednn(y, a)) return at::native::mkldnn_matmul(a, b, y, 1.0f, static_cast<float>(alpha));
#endif
  y.addmm_(a, b, 1.0, alpha);
}

const char* fp32_matmul_library() { return onednn_is_allowed() ? "oneDNN" : "ATen"; }

}  // namespace tune
