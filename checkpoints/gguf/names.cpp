#include "checkpoints/gguf/names.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
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
constexpr std::array<Pair, 10> kLayer = {{{"attn_norm.weight", "input_layernorm.weight"},
                                          {"attn_q.weight", "self_attn.q_proj.weight"},
                                          {"attn_k.weight", "self_attn.k_proj.weight"},
                                          {"attn_v.weight", "self_attn.v_proj.weight"},
                                          {"attn_output.weight", "self_attn.o_proj.weight"},
                                          {"ffn_norm.weight", "post_attention_layernorm.weight"},
                                          {"ffn_gate.weight", "mlp.gate_proj.weight"},
                                          {"ffn_up.weight", "mlp.up_proj.weight"},
                                          {"ffn_down.weight", "mlp.down_proj.weight"},
                                          {"ffn_gate_inp.weight", "block_sparse_moe.gate.weight"}}};
constexpr std::array<Pair, 3> kExperts = {{{"ffn_gate_exps.weight", "w1.weight"},
                                           {"ffn_up_exps.weight", "w3.weight"},
                                           {"ffn_down_exps.weight", "w2.weight"}}};
constexpr std::string_view kExpertPrefix = "block_sparse_moe.experts.";

// "…experts.7.w1.weight" -> {7, "w1.weight"}
std::optional<std::pair<std::int64_t, std::string_view>> expert_part(std::string_view name) {
  const std::size_t begin = name.find(kExpertPrefix);
  if (begin == std::string_view::npos) return std::nullopt;
  const std::string_view rest = name.substr(begin + kExpertPrefix.size());
  std::int64_t number = 0;
  const auto [end, failed] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
  if (failed != std::errc() || end == rest.data() + rest.size() || *end != '.') return std::nullopt;
  return std::pair(number, rest.substr(static_cast<std::size_t>(end - rest.data()) + 1));
}

std::optional<std::string> translated(std::string_view name, std::string_view from_prefix, std::string_view to_prefix,
                                      std::string_view Pair::*from, std::string_view Pair::*to) {
  for (const Pair& pair : kTop)
    if (pair.*from == name) return std::string(pair.*to);
  if (!name.starts_with(from_prefix)) return std::nullopt;
  const std::size_t dot = name.find('.', from_prefix.size());
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view layer = name.substr(from_prefix.size(), dot - from_prefix.size()), rest = name.substr(dot + 1);
  const auto in_layer = [&](std::string_view tail) {
    return std::string(to_prefix) + std::string(layer) + "." + std::string(tail);
  };
  for (const Pair& pair : kLayer)
    if (pair.*from == rest) return in_layer(pair.*to);
  return std::nullopt;
}

}  // namespace

std::optional<std::string> huggingface_name(std::string_view name, std::int64_t expert) {
  for (const Pair& pair : kExperts)
    if (name.starts_with("blk.") && name.ends_with(std::string(".").append(pair.gguf)))
      return fmt::format("model.layers.{}{}{}.{}", name.substr(4, name.size() - 4 - pair.gguf.size()), kExpertPrefix,
                         expert, pair.huggingface);
  return translated(name, "blk.", "model.layers.", &Pair::gguf, &Pair::huggingface);
}
std::optional<std::string> gguf_name(std::string_view name) {
  if (const auto expert = expert_part(name); expert && name.starts_with("model.layers."))
    for (const Pair& pair : kExperts)
      if (pair.huggingface == expert->second)
        return fmt::format("blk.{}{}", name.substr(13, name.find(kExpertPrefix) - 13), pair.gguf);
  return translated(name, "model.layers.", "blk.", &Pair::huggingface, &Pair::gguf);
}
std::optional<std::int64_t> expert_number(std::string_view name) {
  const auto expert = expert_part(name);
  return expert ? std::optional(expert->first) : std::nullopt;
}
bool holds_stacked_experts(std::string_view name) { return name.ends_with("_exps.weight"); }
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
