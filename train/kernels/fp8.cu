#include "train/kernels/fp8.h"

#include <ATen/ops/empty.h>
#include <c10/util/Float8_e4m3fn.h>

#include "train/kernels/cuda.h"
#include "train/kernels/cuda_rows.cuh"

namespace tune::cuda {
namespace {

// One block a row, which is read twice: the second time it comes from the cache. Products and quotients are rounded one
// by one, as on the CPU.
template <typename P, typename T = typename P::Element>
__global__ void quantize(const T* x, const float* factors, c10::Float8_e4m3fn* values, float* scales,
                         std::int64_t columns) {
  using Bytes = Pack<c10::Float8_e4m3fn, P::width>;
  const std::int64_t row = std::int64_t{blockIdx.x} * columns;
  const auto exact = [&](const P& pack, std::int64_t j, int i) {
    return factors == nullptr ? pack[i] : __fmul_rn(pack[i], factors[j + i]);
  };
  float largest = kFp8Smallest;
  for (std::int64_t j = threadIdx.x * P::width; j < columns; j += kThreads * P::width) {
    const P pack = load<P>(x + row + j);
#pragma unroll
    for (int i = 0; i < P::width; ++i) largest = fmaxf(largest, fabsf(exact(pack, j, i)));
  }
  largest = block_reduce(largest, kFp8Smallest, [](float a, float b) { return fmaxf(a, b); });
  if (threadIdx.x == 0) scales[blockIdx.x] = __fdiv_rn(largest, kFp8Largest);
  const float inverse = __fdiv_rn(kFp8Largest, largest);
  for (std::int64_t j = threadIdx.x * P::width; j < columns; j += kThreads * P::width) {
    const P pack = load<P>(x + row + j);
    Bytes bytes;
#pragma unroll
    for (int i = 0; i < P::width; ++i) bytes.set(i, __fmul_rn(exact(pack, j, i), inverse));
    store(values + row + j, bytes);
  }
}

// A tile of kTile x kTile bytes, read and written in words of 16, of which each thread has one. The pitch keeps the
// bytes of a thread's column in different banks.
constexpr int kTile = 64, kWord = 16, kPitch = kTile + 4;

__global__ void transpose(const std::uint8_t* from, std::uint8_t* to, std::int64_t rows, std::int64_t columns) {
  static_assert(kTile * kTile / kWord == kThreads);
  __shared__ std::uint8_t tile[kTile][kPitch];
  const int line = threadIdx.x / (kTile / kWord), word = threadIdx.x % (kTile / kWord) * kWord;
  const std::int64_t first_row = std::int64_t{blockIdx.y} * kTile, first_column = std::int64_t{blockIdx.x} * kTile;
  using Word = Pack<std::uint8_t, kWord>;
  if (first_row + line < rows && first_column + word < columns) {
    const Word bytes = load<Word>(from + (first_row + line) * columns + first_column + word);
#pragma unroll
    for (int i = 0; i < kWord; ++i) tile[line][word + i] = bytes.values[i];
  }
  __syncthreads();
  if (first_column + line >= columns || first_row + word >= rows) return;
  Word bytes;
#pragma unroll
  for (int i = 0; i < kWord; ++i) bytes.values[i] = tile[word + i][line];
  store(to + (first_column + line) * rows + first_row + word, bytes);
}

}  // namespace

Fp8Rows fp8_quantize(const at::Tensor& x, const at::Tensor& factors) {
  const std::int64_t rows = x.size(0), columns = x.size(1);
  Fp8Rows result{at::empty({rows, columns}, x.options().dtype(at::kFloat8_e4m3fn)),
                 at::empty({rows, 1}, x.options().dtype(at::kFloat))};
  if (x.numel() == 0) return result;
  const Launch launch(x);
  for_pack(x, columns, [&](auto pack) {
    using P = decltype(pack);
    using T = typename P::Element;
    quantize<P><<<rows, kThreads, 0, launch>>>(x.const_data_ptr<T>(),
                                               factors.defined() ? factors.const_data_ptr<float>() : nullptr,
                                               static_cast<c10::Float8_e4m3fn*>(result.values.mutable_data_ptr()),
                                               result.scales.mutable_data_ptr<float>(), columns);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return result;
}

at::Tensor transpose_bytes(const at::Tensor& matrix) {
  const std::int64_t rows = matrix.size(0), columns = matrix.size(1);
  at::Tensor result = at::empty({columns, rows}, matrix.options());
  if (matrix.numel() == 0) return result;
  const Launch launch(matrix);
  const dim3 tiles((columns + kTile - 1) / kTile, (rows + kTile - 1) / kTile);
  transpose<<<tiles, kThreads, 0, launch>>>(static_cast<const std::uint8_t*>(matrix.const_data_ptr()),
                                            static_cast<std::uint8_t*>(result.mutable_data_ptr()), rows, columns);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return result;
}

}  // namespace tune::cuda
