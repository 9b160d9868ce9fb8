#include "train/kernels/grouped_matmul.h"

#include <ATen/ATen.h>

#include "train/kernels/matmul.h"

namespace tune {
namespace {

// The fused kernel takes bf16 whose rows begin at multiples of 16 bytes.
bool has_fused_kernel(const at::Tensor& a, const at::Tensor& b) {
  const auto aligned = [](const at::Tensor& t) {
    return t.dim() == 2 && t.stride(1) == 1 && t.stride(0) % 8 == 0 && t.size(0) > 0;
  };
  return a.is_cuda() && a.scalar_type() == at::kBFloat16 && aligned(a) && aligned(b);
}

at::Tensor stacked(const at::Tensor& weight, const RowGroups& groups) {
  return weight.view({groups.count(), weight.size(0) / groups.count(), weight.size(1)});
}

at::Tensor part(const at::Tensor& stack, const RowGroup& group, std::int64_t groups) {
  const std::int64_t rows = stack.size(0) / groups;
  return stack.narrow(0, group.number * rows, rows);
}

}  // namespace

at::Tensor grouped_matmul_nt(const at::Tensor& x, const at::Tensor& weight, const RowGroups& groups) {
  const std::int64_t count = groups.count();
  if (count == 1) return matmul_nt(x, weight);
  if (has_fused_kernel(x, weight)) return at::_grouped_mm(x, stacked(weight, groups).transpose(1, 2), groups.ends);
  at::Tensor y = at::empty({x.size(0), weight.size(0) / count}, x.options());
  for_groups(groups, x.size(0), [&](const RowGroup& group) {
    at::Tensor rows = y.narrow(0, group.first, group.rows);
    matmul_into_(rows, x.narrow(0, group.first, group.rows), part(weight, group, count).t());
  });
  return y;
}

at::Tensor grouped_matmul_nn(const at::Tensor& dy, const at::Tensor& weight, const RowGroups& groups) {
  const std::int64_t count = groups.count();
  if (count == 1) return matmul_nn(dy, weight);
  if (has_fused_kernel(dy, weight)) return at::_grouped_mm(dy, stacked(weight, groups), groups.ends);
  at::Tensor dx = at::empty({dy.size(0), weight.size(1)}, dy.options());
  for_groups(groups, dy.size(0), [&](const RowGroup& group) {
    at::Tensor rows = dx.narrow(0, group.first, group.rows);
    matmul_into_(rows, dy.narrow(0, group.first, group.rows), part(weight, group, count));
  });
  return dx;
}

at::Tensor grouped_matmul_tn(const at::Tensor& dy, const at::Tensor& x, const RowGroups& groups) {
  const std::int64_t count = groups.count(), n = dy.size(1);
  if (count == 1) return matmul_tn(dy, x);
  if (has_fused_kernel(dy, x)) return at::_grouped_mm(dy.t(), x, groups.ends).view({count * n, x.size(1)});
  at::Tensor products = at::zeros({count * n, x.size(1)}, x.options());
  for_groups(groups, x.size(0), [&](const RowGroup& group) {
    at::Tensor product = part(products, group, count);
    matmul_into_(product, dy.narrow(0, group.first, group.rows).t(), x.narrow(0, group.first, group.rows));
  });
  return products;
}

void add_grouped_matmul_nt_(at::Tensor& y, const at::Tensor& x, const at::Tensor& weight, double alpha,
                            const RowGroups& groups) {
  const std::int64_t count = groups.count();
  if (count == 1) return add_matmul_(y, x, weight.t(), alpha);
  if (has_fused_kernel(x, weight)) {
    y.add_(grouped_matmul_nt(x, weight, groups), alpha);
    return;
  }
  for_groups(groups, x.size(0), [&](const RowGroup& group) {
    at::Tensor rows = y.narrow(0, group.first, group.rows);
    add_matmul_(rows, x.narrow(0, group.first, group.rows), part(weight, group, count).t(), alpha);
  });
}

void add_grouped_matmul_nn_(at::Tensor& dx, const at::Tensor& dy, const at::Tensor& weight, const RowGroups& groups) {
  const std::int64_t count = groups.count();
  if (count == 1) return add_matmul_(dx, dy, weight, 1.0);
  if (has_fused_kernel(dy, weight)) {
    dx.add_(grouped_matmul_nn(dy, weight, groups));
    return;
  }
  for_groups(groups, dy.size(0), [&](const RowGroup& group) {
    at::Tensor rows = dx.narrow(0, group.first, group.rows);
    add_matmul_(rows, dy.narrow(0, group.first, group.rows), part(weight, group, count), 1.0);
  });
}

}  // namespace tune
