#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace tune {

/// Linear layer and cross-entropy in one, chunk by chunk: logits exist for `chunk_rows` rows at a time only.
///   hidden   [rows, hidden]  fp32, bf16 or fp16; only rows that carry a label
///   weight   [vocab, hidden] dtype of hidden
///   labels   [rows] int64, all in [0, vocab)
///   scale    the gradients are those of scale * (sum of negative log-likelihoods)
///   d_weight [vocab, hidden] fp32, added to where it is defined (trained head), else skipped
///   chunk_rows  0 = what suits the device: 256 on the CPU, 1,024 on CUDA
/// Logits in hidden's dtype, softmax and sum in fp32.
struct CrossEntropyResult {
  double loss_sum = 0;  // unscaled sum of negative log-likelihoods, natural log
  at::Tensor losses;    // [rows] fp32, unscaled
  at::Tensor d_hidden;  // [rows, hidden], undefined when no gradient was asked for
};
CrossEntropyResult linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels,
                                        double scale, bool want_gradient, at::Tensor d_weight,
                                        std::int64_t chunk_rows = 0);

/// Plain differentiable ATen, the oracle of the tests; fp64 stays fp64: the sum of negative log-likelihoods.
at::Tensor linear_cross_entropy_reference(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels);

}  // namespace tune
