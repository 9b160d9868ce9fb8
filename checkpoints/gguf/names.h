#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tune {

/// "blk.3.attn_q.weight" <-> "model.layers.3.self_attn.q_proj.weight"; nothing for names that are in neither list.
std::optional<std::string> huggingface_name(std::string_view gguf_name);
std::optional<std::string> gguf_name(std::string_view huggingface_name);

/// GGUF keeps the rows of q and k in Meta's order: per head, the two halves interleaved. Row r of one head (head_dim
/// rows) in Hugging Face's order is row gguf_row(r) in GGUF's.
inline std::int64_t gguf_row(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t head = row / head_dim, in_head = row % head_dim, half = head_dim / 2;
  return head * head_dim + 2 * (in_head % half) + in_head / half;
}

/// True for q_proj and k_proj: their rows are permuted.
bool rows_are_permuted(std::string_view huggingface_name);

}  // namespace tune
