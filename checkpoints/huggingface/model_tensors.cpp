#include "checkpoints/huggingface/model_tensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <unordered_map>

#include "recipes/schema/error.h"

namespace tune {

namespace {

constexpr const char* kHead = "lm_head.weight";

std::string shape_text(const std::vector<std::int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

void append_layer(const ModelConfig& config, std::int64_t layer, std::vector<TensorInfo>& tensors) {
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t queries = config.num_attention_heads * config.head_dim;
  const std::int64_t keys = config.num_key_value_heads * config.head_dim;
  const std::int64_t inner = config.intermediate_size;
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape) {
    tensors.push_back({fmt::format("model.layers.{}.{}.weight", layer, name), "", std::move(shape)});
  };
  add("input_layernorm", {hidden});
  add("self_attn.q_proj", {queries, hidden});
  add("self_attn.k_proj", {keys, hidden});
  add("self_attn.v_proj", {keys, hidden});
  add("self_attn.o_proj", {hidden, queries});
  add("post_attention_layernorm", {hidden});
  if (config.num_local_experts == 0) {
    add("mlp.gate_proj", {inner, hidden});
    add("mlp.up_proj", {inner, hidden});
    add("mlp.down_proj", {hidden, inner});
    return;
  }
  add("block_sparse_moe.gate", {config.num_local_experts, hidden});
  for (std::int64_t expert = 0; expert < config.num_local_experts; ++expert) {
    const std::string prefix = fmt::format("block_sparse_moe.experts.{}.", expert);
    add(prefix + "w1", {inner, hidden});
    add(prefix + "w3", {inner, hidden});
    add(prefix + "w2", {hidden, inner});
  }
}

}  // namespace

std::vector<TensorInfo> expected_tensors(const ModelConfig& config) {
  std::vector<TensorInfo> tensors = {{"model.embed_tokens.weight", "", {config.vocab_size, config.hidden_size}}};
  for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) append_layer(config, layer, tensors);
  tensors.push_back({"model.norm.weight", "", {config.hidden_size}});
  if (!config.tie_word_embeddings) tensors.push_back({kHead, "", {config.vocab_size, config.hidden_size}});
  return tensors;
}

void check_tensors(const ModelConfig& config, const WeightSource& weights, const std::string& where) {
  std::unordered_map<std::string, const TensorInfo*> stored;
  for (const TensorInfo& info : weights.tensors()) stored.emplace(info.name, &info);

  std::vector<std::string> missing, surplus, misshapen;
  for (const TensorInfo& expected : expected_tensors(config)) {
    const auto found = stored.find(expected.name);
    if (found == stored.end()) {
      missing.push_back(expected.name);
      continue;
    }
    if (found->second->shape != expected.shape)
      misshapen.push_back(fmt::format("{} is {}, must be {}", expected.name, shape_text(found->second->shape),
                                      shape_text(expected.shape)));
    stored.erase(found);
  }
  if (config.tie_word_embeddings) stored.erase(kHead);
  for (const TensorInfo& info : weights.tensors())
    if (stored.count(info.name) > 0) surplus.push_back(info.name);

  std::vector<std::string> faults;
  if (!missing.empty()) faults.push_back(fmt::format("missing: {}", fmt::join(missing, ", ")));
  if (!surplus.empty()) faults.push_back(fmt::format("not part of the model: {}", fmt::join(surplus, ", ")));
  if (!misshapen.empty()) faults.push_back(fmt::format("wrong shape: {}", fmt::join(misshapen, ", ")));
  if (!faults.empty())
    throw Error{Fault::data,
                {where},
                fmt::format("the tensors don't fit the configuration: {}", fmt::join(faults, "; ")),
                "config and weights must come from the same model: copy it again"};
}

}  // namespace tune
