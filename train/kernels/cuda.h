#pragma once
#include <string>

#include "train/kernels/adamw_8bit.h"
#include "train/kernels/attention.h"
#include "train/kernels/fp8.h"
#include "train/kernels/rms_norm.h"
#include "train/kernels/rope.h"

// The CUDA halves of the operations in this folder: same promises as their public twins, tensors checked already,
// work enqueued on the current stream. A build without CUDA links no_cuda.cpp instead, which says so.
namespace tune::cuda {

RmsNormResult rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);
RmsNormResult add_rms_norm_(at::Tensor& residual, const at::Tensor& delta, const at::Tensor& weight, double eps);
void rms_norm_backward_add_(at::Tensor& dx, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& inv_rms, const at::Tensor& d_weight);
at::Tensor rms_norm_recompute(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& inv_rms);

void rope_(at::Tensor& x, std::int64_t heads, std::int64_t head_dim, const at::Tensor& positions,
           const RopeTable& table, bool inverse);

at::Tensor swiglu(const at::Tensor& gate_up);
void swiglu_backward_(at::Tensor& gate_up, const at::Tensor& d_y);

/// One pass over logits [rows, vocab]: -> losses [rows] fp32; with want_gradient the logits become
/// (softmax - onehot(label)) * scale.
at::Tensor cross_entropy_(at::Tensor& logits, const at::Tensor& labels, double scale, bool want_gradient);

AttentionResult attention(const at::Tensor& qkv, const std::vector<std::int32_t>& document_starts,
                          const AttentionShape& shape);
at::Tensor attention_backward(const at::Tensor& d_out, const at::Tensor& qkv, const AttentionResult& forward,
                              const std::vector<std::int32_t>& document_starts, const AttentionShape& shape);

/// out [rows, columns] = that much, from first_row and first_column on, of the one matrix [all_rows, all_columns] that
/// lies in bytes as checkpoints/quantize/nf4.h has it.
void nf4_dequantize(at::Tensor& out, const at::Tensor& bytes, std::int64_t all_rows, std::int64_t all_columns,
                    std::int64_t first_row, std::int64_t first_column);

Fp8Rows fp8_quantize(const at::Tensor& x, const at::Tensor& factors);

/// matrix [rows, columns] of one byte each, multiples of 16 -> [columns, rows]
at::Tensor transpose_bytes(const at::Tensor& matrix);

void adamw_8bit_(at::Tensor& master, const at::Tensor& gradient, Moments8bit& moments, const AdamWStep& step);

void stochastic_round_(at::Tensor& value, const at::Tensor& exact, std::uint64_t key, std::int64_t first);

struct DeviceFacts {
  std::string name;         // "NVIDIA H200"
  int capability = 0;       // 90
  std::string pci_address;  // "0000:1b:00.0", as /sys/bus/pci/devices has it
};
DeviceFacts device_facts(const at::Device& device);

/// The current device of this thread from now on: kernels, cuBLAS and NCCL work there.
void use_device(const at::Device& device);

/// So many bytes of the host's memory that the current device copies from and to by itself. Error{Fault::memory} where
/// the host has not got them. at::TensorOptions::pinned_memory() rounds up to a power of two, this does not.
at::Tensor pinned_bytes(std::int64_t bytes);

}  // namespace tune::cuda
