#pragma once
#include <ATen/core/Tensor.h>

namespace tune {

// Dense products through the fastest library at hand: oneDNN for fp32 on the CPU (2.2 x ATen's MKL on AMD), ATen's
// choice (oneDNN for bf16, cuBLAS on CUDA) otherwise; on the CPU fp16 goes through fp32, as does bf16 on processors
// without AVX-512. Sums are in fp32. Operands: 2-D, same dtype and device, rows contiguous. Same shapes and operands
// give the same bits, always.

/// x [m, k] times weight [n, k] transposed -> [m, n]
at::Tensor matmul_nt(const at::Tensor& x, const at::Tensor& weight);
/// dy [m, n] times weight [n, k] -> [m, k]
at::Tensor matmul_nn(const at::Tensor& dy, const at::Tensor& weight);
/// dy [m, n] transposed times x [m, k] -> [n, k]
at::Tensor matmul_tn(const at::Tensor& dy, const at::Tensor& x);
/// y [m, n] = a [m, k] times b [k, n], any strides of a and b: for callers that own a buffer
void matmul_into_(at::Tensor& y, const at::Tensor& a, const at::Tensor& b);
/// y [m, n] += alpha * a [m, k] times b [k, n], any strides of a and b; in place
void add_matmul_(at::Tensor& y, const at::Tensor& a, const at::Tensor& b, double alpha);

/// y = beta * y + alpha * a b in fp32, rounded once: what the two above do with fp16, and with bf16 on processors
/// without AVX-512.
/// block: values of b that are copied at a time.
void multiply_through_fp32(at::Tensor& y, const at::Tensor& a, const at::Tensor& b, double beta, double alpha,
                           std::int64_t block = 8 << 20);

/// "oneDNN" or "ATen": which library fp32 products on the CPU go to (recorded in run.json; decides the last bits).
const char* fp32_matmul_library();

}  // namespace tune
