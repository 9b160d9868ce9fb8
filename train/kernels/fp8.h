#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "train/kernels/grouped_matmul.h"

namespace tune {

/// The largest number of e4m3 (Micikevicius et al. 2022, "FP8 Formats for Deep Learning"): a row's largest magnitude
/// becomes that.
inline constexpr float kFp8Largest = 448.0f;
inline constexpr float kFp8Smallest = 1e-30f;  // of a row's largest magnitude: its scale mustn't be zero

/// Rows in e4m3: values [rows, columns] e4m3, contiguous, and scales [rows, 1] fp32, by which they are multiplied.
struct Fp8Rows {
  at::Tensor values, scales;
};

/// x [rows, columns] fp32, bf16 or fp16, contiguous; factors [columns] fp32, by which x is multiplied first, or
/// undefined. Of finite rows the same bits on every device; what isn't finite makes its row's product NaN.
Fp8Rows fp8_quantize(const at::Tensor& x, const at::Tensor& factors = {});

/// A frozen matrix in fp8, each row with its scale: of several groups (experts) one below the other. Rows, of a group,
/// and columns are multiples of kFp8Multiple (train/plan/memory.h).
struct Fp8Matrix {
  at::Tensor bytes;  // uint8: the values, row by row, then the rows' scales
  std::int64_t rows = 0, columns = 0;

  at::Tensor values() const;  // [rows, columns] e4m3
  at::Tensor scales() const;  // [rows, 1] fp32
};

/// Memory for one.
Fp8Matrix make_fp8_matrix(std::int64_t rows, std::int64_t columns, const at::Device& device);

/// Rows [first, first + count), fp32.
at::Tensor fp8_dequantize(const Fp8Matrix& weight, std::int64_t first, std::int64_t count);

// Products as those of grouped_matmul.h, both factors in fp8, sums in fp32 (within the tensor cores of a few bits
// less), results rounded to bf16, whatever the type of x and dy: at::_scaled_mm, which is Hopper's own product. x and
// dy are quantised row by row. With several groups the host waits for the device, which knows how many rows each has.

/// x [rows, columns] -> [rows, matrix rows of a group]
at::Tensor fp8_matmul_nt(const at::Tensor& x, const Fp8Matrix& weight, const RowGroups& groups);
/// dy [rows, matrix rows of a group] -> [rows, columns]: dy takes on the scales of the matrix's rows, which are what is
/// summed over, before it is quantised. The matrix is turned over for it, as the tensor cores want it.
at::Tensor fp8_matmul_nn(const at::Tensor& dy, const Fp8Matrix& weight, const RowGroups& groups);

}  // namespace tune
