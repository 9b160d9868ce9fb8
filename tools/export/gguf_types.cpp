#include "tools/export/gguf_types.h"

#include <array>
#include <charconv>

#include "recipes/schema/error.h"

namespace tune {

namespace {

/// What llama.cpp calls a quantisation: its number, and the type of most matrices.
struct Mixture {
  Quant quant;
  GgufType type;
  std::uint32_t file_type;
};

constexpr std::array kMixtures = {
    Mixture{Quant::f32, GgufType::f32, 0},      Mixture{Quant::f16, GgufType::f16, 1},
    Mixture{Quant::q4_0, GgufType::q4_0, 2},    Mixture{Quant::q8_0, GgufType::q8_0, 7},
    Mixture{Quant::q5_0, GgufType::q5_0, 8},    Mixture{Quant::q4_k_m, GgufType::q4_k, 15},
    Mixture{Quant::q5_k_m, GgufType::q5_k, 17}, Mixture{Quant::q6_k, GgufType::q6_k, 18},
    Mixture{Quant::bf16, GgufType::bf16, 32},
};

const Mixture& mixture_of(Quant quant) {
  for (const Mixture& mixture : kMixtures)
    if (mixture.quant == quant) return mixture;
  throw Bug("a quant that GGUF hasn't got");
}

/// The number in "model.layers.17.mlp.down_proj.weight"; -1 outside the layers.
std::int64_t layer_of(std::string_view name) {
  constexpr std::string_view prefix = "model.layers.";
  std::int64_t layer = -1;
  if (name.starts_with(prefix)) std::from_chars(name.data() + prefix.size(), name.data() + name.size(), layer);
  return layer;
}

/// The first and the last eighth of the layers, and every third between, where errors cost the most.
bool gets_more_bits(std::int64_t layer, std::int64_t layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

bool is_head(const TensorInfo& tensor, const ModelConfig& config) {
  return tensor.name == "lm_head.weight" || (config.tie_word_embeddings && tensor.name == "model.embed_tokens.weight");
}

bool is_down_projection(std::string_view name) {
  return name.ends_with("mlp.down_proj.weight") || name.ends_with(".w2.weight");
}

/// Llama 2 70B, whose v serves eight heads: small, and worth more bits.
bool is_70b(const ModelConfig& config) {
  return config.num_hidden_layers == 80 && config.num_key_value_heads < config.num_attention_heads;
}

/// llama-quantize's rules, which Mixtral's eight experts have exceptions of their own in.
GgufType wanted_type(const TensorInfo& tensor, Quant quant, const ModelConfig& config, bool has_importance) {
  const GgufType mostly = mixture_of(quant).type;
  const bool is_mixed = quant == Quant::q4_k_m || quant == Quant::q5_k_m;
  const bool more = is_mixed && gets_more_bits(layer_of(tensor.name), config.num_hidden_layers);
  const bool has_8_experts = config.num_local_experts == 8;
  if (is_head(tensor, config)) return mostly == GgufType::q8_0 ? GgufType::q8_0 : GgufType::q6_k;
  if (tensor.name.ends_with("v_proj.weight")) {
    if (has_8_experts) return GgufType::q8_0;
    if (more) return GgufType::q6_k;
    return is_70b(config) && mostly == GgufType::q4_k ? GgufType::q5_k : mostly;
  }
  if (tensor.name.ends_with("k_proj.weight")) return has_8_experts ? GgufType::q8_0 : mostly;
  if (is_down_projection(tensor.name)) {
    const bool is_early = has_importance && layer_of(tensor.name) < config.num_hidden_layers / 8;
    if (is_early && quant == Quant::q4_0) return GgufType::q4_1;
    if (is_early && quant == Quant::q5_0) return GgufType::q5_1;
    return more ? GgufType::q6_k : mostly;
  }
  if (tensor.name.ends_with("o_proj.weight")) return has_8_experts && quant == Quant::q4_k_m ? GgufType::q5_k : mostly;
  return mostly;
}

/// The type to take where the columns aren't whole blocks of `type`.
GgufType fallback_of(GgufType type) {
  switch (type) {
    case GgufType::q4_k:
      return GgufType::q5_0;
    case GgufType::q5_k:
      return GgufType::q5_1;
    case GgufType::q6_k:
      return GgufType::q8_0;
    default:
      return GgufType::f16;
  }
}

bool is_quantised(Quant quant) { return quant != Quant::f32 && quant != Quant::f16 && quant != Quant::bf16; }

}  // namespace

GgufType gguf_type_for(const TensorInfo& tensor, Quant quant, const ModelConfig& config, bool has_importance) {
  if (tensor.shape.size() == 1 || tensor.name.ends_with("block_sparse_moe.gate.weight")) return GgufType::f32;
  GgufType type = is_quantised(quant) ? wanted_type(tensor, quant, config, has_importance) : mixture_of(quant).type;
  while (tensor.shape.back() % traits_of(type)->block != 0) type = fallback_of(type);
  return type;
}

std::uint32_t gguf_file_type(Quant quant) { return mixture_of(quant).file_type; }

}  // namespace tune
