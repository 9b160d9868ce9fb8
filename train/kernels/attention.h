#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace tune {

struct AttentionShape {
  std::int64_t query_heads = 0;
  std::int64_t kv_heads = 0;  // divides query_heads; query head h reads kv head h / (query_heads / kv_heads)
  std::int64_t head_dim = 0;
  std::int64_t window = 0;  // 0 = every earlier token; else query i sees keys j with i - window < j <= i
};

/// Causal attention inside each document of a packed batch; documents do not see each other. Scale 1/sqrt(head_dim).
///   qkv              [tokens, (query_heads + 2 * kv_heads) * head_dim]  fp32, bf16 or fp16, rotated already
///   document_starts  first token of each document, then the number of tokens (on the host)
///   out              [tokens, query_heads * head_dim], dtype of qkv
///   log_sum_exp      [query_heads, tokens] fp32, what the backward needs; in fp32 on CUDA in the kernel's own layout
/// Memory: O(tokens), never a [tokens, tokens] tensor.
struct AttentionResult {
  at::Tensor out, log_sum_exp;
};
AttentionResult attention(const at::Tensor& qkv, const std::vector<std::int32_t>& document_starts,
                          const AttentionShape& shape);

/// -> d_qkv, shape and dtype of qkv.
at::Tensor attention_backward(const at::Tensor& d_out, const at::Tensor& qkv, const AttentionResult& forward,
                              const std::vector<std::int32_t>& document_starts, const AttentionShape& shape);

/// Plain differentiable ATen with an explicit mask, the oracle of the tests; fp64 stays fp64.
at::Tensor attention_reference(const at::Tensor& qkv, const std::vector<std::int32_t>& document_starts,
                               const AttentionShape& shape);

}  // namespace tune
