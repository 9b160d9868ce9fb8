#include "train/kernels/nf4.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <numeric>

#include "checkpoints/quantize/nf4.h"
#include "recipes/schema/error.h"
#include "train/kernels/cpu_rows.h"
#include "train/kernels/cuda.h"
#include "train/kernels/matmul.h"
#include "train/plan/memory.h"

namespace tune {
namespace {

// Rows [first_row, first_row + out.size(0)) of one matrix.
void dequantize_into(at::Tensor out, const Nf4Matrices& weight, const Nf4Matrices::Matrix& matrix,
                     std::int64_t first_row, std::int64_t first_column) {
  const Nf4Layout layout(matrix.rows * weight.columns);
  const at::Tensor bytes = weight.bytes.narrow(0, matrix.first_byte, layout.bytes);
  if (out.is_cuda()) return cuda::nf4_dequantize(out, bytes, matrix.rows, weight.columns, first_row, first_column);
  const auto* source = static_cast<const std::byte*>(bytes.const_data_ptr());
  auto* destination = static_cast<std::byte*>(out.mutable_data_ptr());
  const Dtype dtype = out.scalar_type() == at::kFloat      ? Dtype::fp32
                      : out.scalar_type() == at::kBFloat16 ? Dtype::bf16
                                                           : Dtype::fp16;
  const std::int64_t columns = out.size(1), row_bytes = columns * static_cast<std::int64_t>(out.element_size());
  at::parallel_for(0, out.size(0), rows_per_task(columns), [&](std::int64_t begin, std::int64_t end) {
    if (columns == weight.columns)
      return dequantize_nf4(layout, source, (first_row + begin) * columns, (end - begin) * columns, dtype,
                            destination + begin * row_bytes);
    for (std::int64_t row = begin; row < end; ++row)
      dequantize_nf4(layout, source, (first_row + row) * weight.columns + first_column, columns, dtype,
                     destination + row * row_bytes);
  });
}

// How many lines of so many values are dequantised at a time: whole blocks of them.
std::int64_t tile_lines(std::int64_t values, std::size_t element_size, std::int64_t all) {
  const std::int64_t lines = kNf4TileBytes / (values * static_cast<std::int64_t>(element_size));
  return std::min(all, std::max<std::int64_t>(1, lines / kNf4Block) * kNf4Block);
}

}  // namespace

std::int64_t Nf4Matrices::rows() const {
  return std::accumulate(matrices.begin(), matrices.end(), std::int64_t{0},
                         [](std::int64_t sum, const Matrix& matrix) { return sum + matrix.rows; });
}

Nf4Matrices make_nf4_matrices(const std::vector<std::int64_t>& rows, std::int64_t columns, const at::Device& device) {
  Nf4Matrices made;
  made.columns = columns;
  std::int64_t bytes = 0;
  for (const std::int64_t count : rows) {
    made.matrices.push_back({count, bytes});
    bytes += Nf4Layout(count * columns).bytes;
  }
  made.bytes = at::zeros({bytes}, at::TensorOptions().dtype(at::kByte).device(device));
  return made;
}

at::Tensor nf4_dequantize(const Nf4Matrices& weight, const Nf4Rectangle& rectangle, at::ScalarType dtype) {
  TUNE_CHECK(dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf,
             "NF4 as {}; fp32, bf16 and fp16 are supported", c10::toString(dtype));
  TUNE_CHECK(rectangle.first_row + rectangle.rows <= weight.rows() &&
                 rectangle.first_column + rectangle.columns <= weight.columns,
             "rows to {}, columns to {} of [{}, {}]", rectangle.first_row + rectangle.rows,
             rectangle.first_column + rectangle.columns, weight.rows(), weight.columns);
  at::Tensor values = at::empty({rectangle.rows, rectangle.columns}, weight.bytes.options().dtype(dtype));
  std::int64_t begin = 0;  // of the matrix, among all rows
  for (const Nf4Matrices::Matrix& matrix : weight.matrices) {
    const std::int64_t first = std::max(begin, rectangle.first_row),
                       last = std::min(begin + matrix.rows, rectangle.first_row + rectangle.rows);
    if (first < last)
      dequantize_into(values.narrow(0, first - rectangle.first_row, last - first), weight, matrix, first - begin,
                      rectangle.first_column);
    begin += matrix.rows;
  }
  return values;
}

at::Tensor nf4_matmul_nt(const at::Tensor& x, const Nf4Matrices& weight, const RowGroups& groups) {
  const std::int64_t rows = weight.rows() / groups.count(), step = tile_lines(weight.columns, x.element_size(), rows);
  at::Tensor y = at::empty({x.size(0), rows}, x.options());
  for_groups(groups, x.size(0), [&](const RowGroup& group) {
    const at::Tensor x_rows = x.narrow(0, group.first, group.rows);
    at::Tensor y_rows = y.narrow(0, group.first, group.rows);
    for (std::int64_t first = 0; first < rows; first += step) {
      const std::int64_t count = std::min(step, rows - first);
      const at::Tensor tile =
          nf4_dequantize(weight, {.first_row = group.number * rows + first, .rows = count, .columns = weight.columns},
                         x.scalar_type());
      if (count == rows)
        matmul_into_(y_rows, x_rows, tile.t());
      else
        y_rows.narrow(1, first, count).copy_(matmul_nt(x_rows, tile));
    }
  });
  return y;
}

at::Tensor nf4_matmul_nn(const at::Tensor& dy, const Nf4Matrices& weight, const RowGroups& groups) {
  const std::int64_t rows = weight.rows() / groups.count(), step = tile_lines(rows, dy.element_size(), weight.columns);
  at::Tensor dx = at::empty({dy.size(0), weight.columns}, dy.options());
  for_groups(groups, dy.size(0), [&](const RowGroup& group) {
    const at::Tensor dy_rows = dy.narrow(0, group.first, group.rows);
    at::Tensor dx_rows = dx.narrow(0, group.first, group.rows);
    for (std::int64_t first = 0; first < weight.columns; first += step) {
      const std::int64_t count = std::min(step, weight.columns - first);
      const at::Tensor tile = nf4_dequantize(
          weight, {.first_row = group.number * rows, .rows = rows, .first_column = first, .columns = count},
          dy.scalar_type());
      if (count == weight.columns)
        matmul_into_(dx_rows, dy_rows, tile);
      else
        dx_rows.narrow(1, first, count).copy_(matmul_nn(dy_rows, tile));
    }
  });
  return dx;
}

}  // namespace tune
