#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace tune {

/// "blk.3.attn_q.weight" <-> "model.layers.3.self_attn.q_proj.weight"; nothing for names that are in neither list.
/// GGUF stacks the experts of a layer: "blk.3.ffn_gate_exps.weight" [experts, rows, columns] holds w1 of all of them,
/// and has a Hugging Face name only together with an expert's number.
std::optional<std::string> huggingface_name(std::string_view gguf_name, std::int64_t expert = 0);
std::optional<std::string> gguf_name(std::string_view huggingface_name);

/// The number in "model.layers.3.block_sparse_moe.experts.7.w1.weight"; nothing for what belongs to no expert.
std::optional<std::int64_t> expert_number(std::string_view huggingface_name);

/// "blk.3.ffn_gate_exps.weight" and its like.
bool holds_stacked_experts(std::string_view gguf_name);

/// GGUF keeps the rows of q and k in Meta's order, where a rotated pair is neighbours; Hugging Face keeps the first
/// halves of all pairs of a head before the second ones. Row `row` in Hugging Face's order is row gguf_row() in GGUF's.
inline std::int64_t gguf_row(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t in_head = row % head_dim, half = head_dim / 2;
  return row - in_head + 2 * (in_head % half) + in_head / half;
}

/// True for q_proj and k_proj, weights and adapters: their rows are permuted.
bool rows_are_permuted(std::string_view huggingface_name);

/// Rows of whole heads from Hugging Face's order into GGUF's. rows.size() is a multiple of head_dim * columns.
void permute_rows_for_gguf(std::span<float> rows, std::int64_t columns, std::int64_t head_dim);

}  // namespace tune
