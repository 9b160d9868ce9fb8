#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "train/kernels/grouped_matmul.h"

namespace tune {

/// Frozen matrices over the same input in NF4 (checkpoints/quantize/nf4.h), one below the other: the same ones for each
/// group of rows (expert), group by group.
struct Nf4Matrices {
  struct Matrix {
    std::int64_t rows = 0, first_byte = 0;
  };

  at::Tensor bytes;  // uint8: each matrix as Nf4Layout(rows * columns) has it
  std::int64_t columns = 0;
  std::vector<Matrix> matrices;

  std::int64_t rows() const;  // of all
};

/// Zeroed memory for matrices of so many rows each.
Nf4Matrices make_nf4_matrices(const std::vector<std::int64_t>& rows, std::int64_t columns, const at::Device& device);

/// Rows [first_row, first_row + rows) of all, and of these the columns [first_column, first_column + columns), fp32,
/// bf16 or fp16. The same bits on every device.
struct Nf4Rectangle {
  std::int64_t first_row = 0, rows = 0, first_column = 0, columns = 0;
};
at::Tensor nf4_dequantize(const Nf4Matrices& weight, const Nf4Rectangle& rectangle, at::ScalarType dtype);

// Products as those of grouped_matmul.h, in the type of x (dy). A tile of weights is dequantised at a time, of at most
// kNf4TileBytes (train/plan/memory.h), and multiplied while it is in a cache; tiles divide the result, so that each of
// its values is one sum. With several groups the host waits for the device, which knows how many rows each has.

/// x [rows, columns] -> [rows, matrices' rows of a group]
at::Tensor nf4_matmul_nt(const at::Tensor& x, const Nf4Matrices& weight, const RowGroups& groups);
/// dy [rows, matrices' rows of a group] -> [rows, columns]
at::Tensor nf4_matmul_nn(const at::Tensor& dy, const Nf4Matrices& weight, const RowGroups& groups);

}  // namespace tune
