#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "recipes/schema/error.h"

namespace tune {

/// Consecutive rows that belong together: group g ends before row ends[g], where the next begins. Undefined: all rows
/// are one group. Where the fused kernel runs, the host never looks at them and so never waits for the device.
struct RowGroups {
  at::Tensor ends;  // [groups] int32 on the rows' device; the last is the number of rows

  std::int64_t count() const { return ends.defined() ? ends.size(0) : 1; }
};

struct RowGroup {
  std::int64_t number = 0, first = 0, rows = 0;
};

/// Calls f with each group that has rows; `rows`: of all groups. The host waits for the device where groups are
/// defined.
template <typename F>
void for_groups(const RowGroups& groups, std::int64_t rows, F&& f) {
  if (!groups.ends.defined()) return f(RowGroup{0, 0, rows});
  const at::Tensor host = groups.ends.cpu();
  const auto* end = host.const_data_ptr<std::int32_t>();
  TUNE_CHECK(end[groups.count() - 1] == rows, "groups of {} rows, there are {}", end[groups.count() - 1], rows);
  for (std::int64_t g = 0, first = 0; g < groups.count(); first = end[g++])
    if (end[g] > first) f(RowGroup{g, first, end[g] - first});
}

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
