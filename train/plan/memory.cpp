#include "train/plan/memory.h"

#include <algorithm>

namespace tune {
namespace {

constexpr std::int64_t kProgramBytes = 290 << 20;  // LibTorch, oneDNN's compiled products and the program itself
constexpr std::int64_t kLogitRows = 256;           // chunk of the cross-entropy

}  // namespace

std::int64_t tape_bytes_per_token(const ModelConfig& c, const AdapterOptions& adapter, std::int64_t element_bytes) {
  const std::int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  std::int64_t elements = 2 * c.hidden_size + (q + 2 * kv) + q + 2 * c.intermediate_size;
  if (adapter.type == AdapterType::lora)
    elements += adapter.lora_r * static_cast<std::int64_t>(adapted_modules(adapter).size());
  return elements * element_bytes + 4 * (c.num_attention_heads + 2);  // log-sum-exp and two inverse norms in fp32
}

std::vector<MemoryItem> memory_items(const Recipe& recipe, const ModelConfig& config, const Plan& plan) {
  const Dtype dtype = recipe.model.dtype.value_or(recipe.train.precision);
  const std::int64_t element = dtype == Dtype::fp32 ? 4 : 2, tokens = plan.micro_batch_tokens,
                     trained = plan.trainable_parameters;
  const bool full = recipe.adapter.type == AdapterType::none;
  const std::int64_t tape = tape_bytes_per_token(config, recipe.adapter, element) * tokens;
  const std::int64_t q = config.num_attention_heads * config.head_dim,
                     kv = config.num_key_value_heads * config.head_dim;
  const std::int64_t working =
      (4 * config.hidden_size + q + (q + 2 * kv) + 3 * config.intermediate_size) * element * tokens;
  std::vector<MemoryItem> items = {{"program", kProgramBytes}, {"base weights", plan.parameters * element}};
  if (full && element != 4) items.push_back({"fp32 masters", trained * 4});
  if (!full) items.push_back({"adapter and masters", trained * (element + 4)});
  items.push_back({"gradients", trained * 4});
  items.push_back({"optimizer", recipe.train.optim == OptimizerType::adamw ? trained * 8 : 0});
  if (recipe.train.gradient_checkpointing)
    items.push_back({"activations", tape + config.num_hidden_layers * config.hidden_size * element * tokens});
  else
    items.push_back({"activations", tape * config.num_hidden_layers});
  items.push_back({"working space", working});
  items.push_back({"logits chunk", kLogitRows * config.vocab_size * (element + 4)});
  if (full) items.push_back({"weight gradient of one product", config.vocab_size * config.hidden_size * element});
  return items;
}

}  // namespace tune
