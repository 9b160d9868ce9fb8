#include "train/kernels/fp8.h"

#include <ATen/ATen.h>

#include "recipes/schema/error.h"
#include "train/kernels/cuda.h"
#include "train/plan/memory.h"

namespace tune {
namespace {

void require_rows_in_order(const at::Tensor& x, const at::Tensor& factors) {
  TUNE_CHECK(x.dim() == 2 && x.is_contiguous(), "not two contiguous dimensions");
  TUNE_CHECK(!factors.defined() ||
                 (factors.scalar_type() == at::kFloat && factors.is_contiguous() && factors.numel() == x.size(1)),
             "{} columns, not as many contiguous factors in fp32", x.size(1));
}

// [n, k] -> [k, n]; both e4m3.
at::Tensor turned_over(const at::Tensor& values) {
  return values.is_cuda() ? cuda::transpose_bytes(values) : values.t().contiguous();
}

at::Tensor product(const Fp8Rows& a, const at::Tensor& b_transposed, const at::Tensor& b_scales, at::ScalarType type) {
  return at::_scaled_mm(a.values, b_transposed.t(), a.scales, b_scales, {}, {}, at::kBFloat16).to(type);
}

// f(rows of the operand, the group's values and scales) -> rows of the result, of all groups.
template <typename F>
at::Tensor of_groups(const at::Tensor& operand, std::int64_t result_columns, const Fp8Matrix& weight,
                     const RowGroups& groups, F&& f) {
  const std::int64_t rows = weight.rows / groups.count();
  const at::Tensor values = weight.values(), scales = weight.scales();
  if (!groups.ends.defined()) return f(operand, values, scales);
  at::Tensor result = at::empty({operand.size(0), result_columns}, operand.options());
  for_groups(groups, operand.size(0), [&](const RowGroup& group) {
    result.narrow(0, group.first, group.rows)
        .copy_(f(operand.narrow(0, group.first, group.rows), values.narrow(0, group.number * rows, rows),
                 scales.narrow(0, group.number * rows, rows)));
  });
  return result;
}

}  // namespace

Fp8Rows fp8_quantize(const at::Tensor& x, const at::Tensor& factors) {
  require_rows_in_order(x, factors);
  if (x.is_cuda()) return cuda::fp8_quantize(x, factors);
  at::Tensor exact = x.to(at::kFloat);
  if (factors.defined()) exact = exact * factors.view({1, -1});
  const at::Tensor largest = exact.abs().amax(1, /*keepdim=*/true).clamp_min(kFp8Smallest);
  return {(exact * (kFp8Largest / largest)).to(at::kFloat8_e4m3fn), largest / kFp8Largest};
}

at::Tensor Fp8Matrix::values() const {
  return bytes.narrow(0, 0, rows * columns).view(at::kFloat8_e4m3fn).view({rows, columns});
}

at::Tensor Fp8Matrix::scales() const {
  return bytes.narrow(0, rows * columns, rows * std::int64_t{sizeof(float)}).view(at::kFloat).view({rows, 1});
}

Fp8Matrix make_fp8_matrix(std::int64_t rows, std::int64_t columns, const at::Device& device) {
  TUNE_CHECK(rows % kFp8Multiple == 0 && columns % kFp8Multiple == 0, "[{}, {}] in fp8", rows, columns);
  return {
      at::empty({rows * (columns + std::int64_t{sizeof(float)})}, at::TensorOptions().dtype(at::kByte).device(device)),
      rows, columns};
}

at::Tensor fp8_dequantize(const Fp8Matrix& weight, std::int64_t first, std::int64_t count) {
  return weight.values().narrow(0, first, count).to(at::kFloat) * weight.scales().narrow(0, first, count);
}

at::Tensor fp8_matmul_nt(const at::Tensor& x, const Fp8Matrix& weight, const RowGroups& groups) {
  return of_groups(x, weight.rows / groups.count(), weight, groups,
                   [&](const at::Tensor& rows, const at::Tensor& values, const at::Tensor& scales) {
                     return product(fp8_quantize(rows), values, scales.view({1, -1}), x.scalar_type());
                   });
}

at::Tensor fp8_matmul_nn(const at::Tensor& dy, const Fp8Matrix& weight, const RowGroups& groups) {
  const at::Tensor ones = at::ones({1, weight.columns}, dy.options().dtype(at::kFloat));
  return of_groups(dy, weight.columns, weight, groups,
                   [&](const at::Tensor& rows, const at::Tensor& values, const at::Tensor& scales) {
                     return product(fp8_quantize(rows, scales.view({-1})), turned_over(values), ones, dy.scalar_type());
                   });
}

}  // namespace tune
