#include "train/plan/memory.h"

#include <algorithm>

#include "train/plan/process.h"

namespace tune {
namespace {

constexpr std::int64_t kPreparedBytes = 75 << 20;  // oneDNN's prepared products
constexpr std::int64_t kLogitRows = 256;           // chunk of the cross-entropy

// LibTorch and the program itself: how much of it is resident differs between builds with and without CUDA by a factor
// of three, and between machines, so that what there is now is a better guess than any constant.
std::int64_t program_bytes() {
  static const std::int64_t now = resident_bytes();
  return now + kPreparedBytes;
}

// B of the modules that share an input stands in one matrix [all their rows, all their ranks], zero off the diagonal.
std::int64_t dense_b_bytes(const ModelConfig& c, const AdapterOptions& adapter, std::int64_t element) {
  const std::vector<std::string> targets = adapted_modules(adapter, c);
  const auto ranks = [&](std::initializer_list<const char*> names) {
    return adapter.lora_r * std::count_if(names.begin(), names.end(), [&](const char* name) {
             return std::find(targets.begin(), targets.end(), name) != targets.end();
           });
  };
  const std::int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  const std::int64_t elements =
      (q + 2 * kv) * ranks({"q_proj", "k_proj", "v_proj"}) +
      2 * c.intermediate_size * (ranks({"gate_proj", "up_proj"}) + c.num_local_experts * ranks({"w1", "w3"}));
  return c.num_hidden_layers * elements * element;
}

}  // namespace

std::int64_t tape_bytes_per_token(const ModelConfig& c, const AdapterOptions& adapter, std::int64_t element_bytes) {
  const std::int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  const std::int64_t active = std::max<std::int64_t>(1, c.num_experts_per_tok);
  std::int64_t elements = 2 * c.hidden_size + (q + 2 * kv) + q + 2 * active * c.intermediate_size;
  if (adapter.type == AdapterType::lora) {
    const std::vector<std::string> targets = adapted_modules(adapter, c);
    for (const LinearKind& linear : linear_kinds(c))
      if (std::find(targets.begin(), targets.end(), linear.name) != targets.end())
        elements += linear.active * adapter.lora_r;
  }
  // log-sum-exp, two inverse norms and the router's probabilities and weights in fp32, its choices in int64
  const std::int64_t routing = c.num_local_experts > 0 ? 4 * c.num_local_experts + active * (4 + 3 * 8) : 0;
  return elements * element_bytes + 4 * (c.num_attention_heads + 2) + routing;
}

std::vector<MemoryItem> memory_items(const Recipe& recipe, const ModelConfig& c, const Plan& plan) {
  const Dtype dtype = recipe.model.dtype.value_or(recipe.train.precision);
  const std::int64_t element = dtype == Dtype::fp32 ? 4 : 2, tokens = plan.micro_batch_tokens,
                     trained = plan.trainable_parameters;
  const bool full = recipe.adapter.type == AdapterType::none;
  const std::int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  const std::int64_t row = element * tokens, hidden = c.hidden_size * row;

  std::vector<MemoryItem> items = {{"program", program_bytes()}, {"base weights", plan.parameters * element}};
  if (full && element != 4) items.push_back({"fp32 masters", trained * 4});
  if (!full)
    items.push_back(
        {"adapter and masters", trained * (element == 4 ? 4 : 6) + dense_b_bytes(c, recipe.adapter, element)});
  items.push_back({"gradients", trained * 4});
  items.push_back({"optimizer", recipe.train.optim == OptimizerType::adamw ? trained * 8 : 0});

  const std::int64_t tape = tape_bytes_per_token(c, recipe.adapter, element) * tokens;
  const bool checkpointing = recipe.train.gradient_checkpointing;
  items.push_back({"activations", checkpointing ? tape + c.num_hidden_layers * hidden : tape * c.num_hidden_layers});

  // The loss and the backward of a layer take turns: what one frees the other uses.
  std::int64_t loss = kLogitRows * c.vocab_size * element + 3 * hidden;
  const std::int64_t active = std::max<std::int64_t>(1, c.num_experts_per_tok),
                     experts = std::max<std::int64_t>(1, c.num_local_experts);
  std::int64_t layer = 4 * hidden + std::max(2 * active * c.intermediate_size, 2 * q + 2 * kv) * row;
  if (c.num_local_experts > 0) layer += (3 * c.intermediate_size + 2 * c.hidden_size) * active * row;  // rows by expert
  if (full) {
    layer += 2 * experts * c.intermediate_size * c.hidden_size * element;
    if (element != 4) loss += c.vocab_size * c.hidden_size * element;
  }
  items.push_back({"working space", std::max(loss, layer)});
  return items;
}

}  // namespace tune
