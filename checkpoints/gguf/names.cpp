#include "checkpoints/gguf/names.h"

#include <array>
#include <cstring>
#include <vector>

#include "recipes/schema/error.h"

namespace tune {
namespace {

struct Pair {
  std::string_view gguf, huggingface;
};
constexpr std::array<Pair, 3> kTop = {{{"token_embd.weight", "model.embed_tokens.weight"},
                                       {"output_norm.weight", "model.norm.weight"},
                                       {"output.weight", "lm_head.weight"}}};
constexpr std::array<Pair, 9> kLayer = {{{"attn_norm.weight", "input_layernorm.weight"},
                                         {"attn_q.weight", "self_attn.q_proj.weight"},
                                         {"attn_k.weight", "self_attn.k_proj.weight"},
                                         {"attn_v.weight", "self_attn.v_proj.weight"},
                                         {"attn_output.weight", "self_attn.o_proj.weight"},
                                         {"ffn_norm.weight", "post_attention_layernorm.weight"},
                                         {"ffn_gate.weight", "mlp.gate_proj.weight"},
                                         {"ffn_up.weight", "mlp.up_proj.weight"},
                                         {"ffn_down.weight", "mlp.down_proj.weight"}}};

std::optional<std::string> translated(std::string_view name, std::string_view from_prefix, std::string_view to_prefix,
                                      std::string_view Pair::*from, std::string_view Pair::*to) {
  for (const Pair& pair : kTop)
    if (pair.*from == name) return std::string(pair.*to);
  if (!name.starts_with(from_prefix)) return std::nullopt;
  const std::size_t dot = name.find('.', from_prefix.size());
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view layer = name.substr(from_prefix.size(), dot - from_prefix.size()), rest = name.substr(dot + 1);
  for (const Pair& pair : kLayer)
    if (pair.*from == rest) return std::string(to_prefix) + std::string(layer) + "." + std::string(pair.*to);
  return std::nullopt;
}

}  // namespace

std::optional<std::string> huggingface_name(std::string_view name) {
  return translated(name, "blk.", "model.layers.", &Pair::gguf, &Pair::huggingface);
}
std::optional<std::string> gguf_name(std::string_view name) {
  return translated(name, "model.layers.", "blk.", &Pair::huggingface, &Pair::gguf);
}
bool rows_are_permuted(std::string_view name) {
  return name.find("self_attn.q_proj.") != std::string_view::npos ||
         name.find("self_attn.k_proj.") != std::string_view::npos;
}
void permute_rows_for_gguf(std::span<float> rows, std::int64_t columns, std::int64_t head_dim) {
  const auto head = static_cast<std::size_t>(head_dim * columns), row = static_cast<std::size_t>(columns);
  TUNE_CHECK(head > 0 && rows.size() % head == 0, "{} values are no whole heads of {}", rows.size(), head);
  std::vector<float> old(head);
  for (std::size_t begin = 0; begin < rows.size(); begin += head) {
    std::memcpy(old.data(), rows.data() + begin, head * sizeof(float));
    for (std::int64_t r = 0; r < head_dim; ++r)
      std::memcpy(rows.data() + begin + static_cast<std::size_t>(gguf_row(r, head_dim)) * row,
                  old.data() + static_cast<std::size_t>(r) * row, row * sizeof(float));
  }
}

}  // namespace tune
