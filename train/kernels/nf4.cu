#include <algorithm>

#include "checkpoints/quantize/dynamic_map.h"
#include "checkpoints/quantize/nf4.h"
#include "train/kernels/cuda.h"
#include "train/kernels/cuda_rows.cuh"

namespace tune::cuda {
namespace {

struct Tables {
  float values[16];
  float scales[256];
};

struct Matrix {
  const std::uint8_t *codes, *scale_codes;
  const float* scales;  // the mean, then one for each kNf4ScaleBlock codes
  std::int64_t columns, first_row, first_column;
};

// The product and the sum are rounded one after the other, as on the CPU.
template <typename P, typename T = typename P::Element>
__global__ void dequantize(Matrix matrix, Tables tables, T* out, std::int64_t width, std::int64_t blocks_per_row) {
  __shared__ Tables shared;
  if (threadIdx.x < 16) shared.values[threadIdx.x] = tables.values[threadIdx.x];
  for (int i = threadIdx.x; i < 256; i += kThreads) shared.scales[i] = tables.scales[i];
  __syncthreads();
  const std::int64_t row = blockIdx.x / blocks_per_row,
                     column = (blockIdx.x % blocks_per_row * kThreads + threadIdx.x) * P::width;
  if (column >= width) return;
  const std::int64_t first = (matrix.first_row + row) * matrix.columns + matrix.first_column + column,
                     block = first / kNf4Block;  // of all values of the pack: they begin at a multiple of its width
  const float scale = __fadd_rn(
      __fmul_rn(shared.scales[matrix.scale_codes[block]], matrix.scales[1 + block / kNf4ScaleBlock]), matrix.scales[0]);
  P pack;
#pragma unroll
  for (int i = 0; i < P::width; ++i) {
    const std::int64_t at = first + i;
    const std::uint8_t two = matrix.codes[at / 2];
    pack.set(i, __fmul_rn(shared.values[at % 2 == 0 ? two >> 4 : two & 15], scale));
  }
  store(out + row * width + column, pack);
}

}  // namespace

void nf4_dequantize(at::Tensor& out, const at::Tensor& bytes, std::int64_t rows, std::int64_t columns,
                    std::int64_t first_row, std::int64_t first_column) {
  if (out.numel() == 0) return;
  const Launch launch(out);
  Tables tables;
  std::copy(std::begin(kNf4), std::end(kNf4), tables.values);
  std::copy(dynamic_map(true).values.begin(), dynamic_map(true).values.end(), tables.scales);
  const Nf4Layout layout(rows * columns);
  const auto* data = bytes.const_data_ptr<std::uint8_t>();
  const Matrix matrix{
      data,        data + layout.scale_codes, reinterpret_cast<const float*>(data + layout.scales), columns, first_row,
      first_column};
  const std::int64_t width = out.size(1);
  const bool whole = columns % 8 == 0 && first_column % 8 == 0;
  for_pack(out, whole ? width : 1, [&](auto pack) {
    using P = decltype(pack);
    using T = typename P::Element;
    const std::int64_t blocks_per_row = (width + kThreads * P::width - 1) / (kThreads * P::width);
    dequantize<P><<<out.size(0) * blocks_per_row, kThreads, 0, launch>>>(matrix, tables, out.data_ptr<T>(), width,
                                                                         blocks_per_row);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

}  // namespace tune::cuda
