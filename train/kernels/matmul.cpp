#include "train/kernels/matmul.h"

#include <ATen/ATen.h>

#include "recipes/schema/error.h"

namespace at::native {
// Exported by libtorch_cpu, declared in no installed header: oneDNN's product behind ATen's tensors.
void mkldnn_matmul(const Tensor& mat1, const Tensor& mat2, const Tensor& result, float beta, float alpha);
}  // namespace at::native

namespace tune {
namespace {

// oneDNN needs a moment to set a product up; below this many multiply-adds MKL is quicker.
constexpr std::int64_t kSmallProduct = 1 << 18;

at::Tensor product(const at::Tensor& a, const at::Tensor& b) {
  TUNE_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0), "shapes [{}, {}] and [{}, {}]", a.size(0), a.size(1),
             b.size(0), b.size(1));
  const bool to_onednn = a.scalar_type() == at::kFloat && a.is_cpu() && a.size(0) * a.size(1) * b.size(1) > kSmallProduct;
  if (!to_onednn) return at::mm(a, b);
  at::Tensor result = at::empty({a.size(0), b.size(1)}, a.options());
  at::native::mkldnn_matmul(a, b, result, 0.0f, 1.0f);
  return result;
}

}  // namespace

at::Tensor matmul_nt(const at::Tensor& x, const at::Tensor& weight) { return product(x, weight.t()); }
at::Tensor matmul_nn(const at::Tensor& dy, const at::Tensor& weight) { return product(dy, weight); }
at::Tensor matmul_tn(const at::Tensor& dy, const at::Tensor& x) { return product(dy.t(), x); }

void add_matmul_(at::Tensor& y, const at::Tensor& a, const at::Tensor& b, double alpha) {
  y.addmm_(a, b, 1.0, alpha);
}

const char* fp32_matmul_library() { return "oneDNN"; }

}  // namespace tune
