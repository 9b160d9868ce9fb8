#pragma once
#include "train/kernels/attention.h"

namespace tune {

/// attention() and attention_backward() for tensors in host memory, checked already.
AttentionResult attention_cpu(const at::Tensor& qkv, const std::vector<std::int32_t>& document_starts,
                              const AttentionShape& shape);
at::Tensor attention_backward_cpu(const at::Tensor& d_out, const at::Tensor& qkv, const AttentionResult& forward,
                                  const std::vector<std::int32_t>& document_starts, const AttentionShape& shape);

}  // namespace tune
