#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace tune {

/// Consecutive rows that belong together: group g ends before row ends[g], where the next begins. Undefined: all rows
/// are one group. Where the fused kernel runs, the host never looks at them and so never waits for the device.
struct RowGroups {
  at::Tensor ends;  // [groups] int32 on the rows' device; the last is the number of rows

  std::int64_t count() const { return ends.defined() ? ends.size(0) : 1; }
};

// One product a group, each group with a matrix of its own; the matrices lie one below the other. A group without rows
// is allowed. bf16 on CUDA: one launch for all groups (at::_grouped_mm); else one product a group. With one group these
// are the products of matmul.h, to the last bit. Operands as there.

/// x [rows, k], weight [groups * n, k] -> [rows, n]: rows of group g times weight g transposed
at::Tensor grouped_matmul_nt(const at::Tensor& x, const at::Tensor& weight, const RowGroups& groups);
/// dy [rows, n], weight [groups * n, k] -> [rows, k]
at::Tensor grouped_matmul_nn(const at::Tensor& dy, const at::Tensor& weight, const RowGroups& groups);
/// dy [rows, n], x [rows, k] -> [groups * n, k]: of each group dy transposed times x; zero for a group without rows
at::Tensor grouped_matmul_tn(const at::Tensor& dy, const at::Tensor& x, const RowGroups& groups);
/// y += alpha * grouped_matmul_nt(x, weight)
void add_grouped_matmul_nt_(at::Tensor& y, const at::Tensor& x, const at::Tensor& weight, double alpha,
                            const RowGroups& groups);
/// dx += grouped_matmul_nn(dy, weight)
void add_grouped_matmul_nn_(at::Tensor& dx, const at::Tensor& dy, const at::Tensor& weight, const RowGroups& groups);

}  // namespace tune
