#include "train/plan/plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

#include "recipes/schema/error.h"
#include "train/plan/memory.h"

namespace tune {
namespace {

struct LinearShape {
  const char* name;
  std::int64_t out, in;
};

std::vector<LinearShape> linear_layers(const ModelConfig& c) {
  const std::int64_t h = c.hidden_size, f = c.intermediate_size;
  const std::int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  return {{"q_proj", q, h},    {"k_proj", kv, h}, {"v_proj", kv, h},  {"o_proj", h, q},
          {"gate_proj", f, h}, {"up_proj", f, h}, {"down_proj", h, f}};
}

}  // namespace

std::int64_t Plan::peak_bytes() const {
  return std::accumulate(memory.begin(), memory.end(), std::int64_t{0},
                         [](std::int64_t sum, const MemoryItem& item) { return sum + item.bytes; });
}

std::int64_t total_parameters(const ModelConfig& config) {
  std::int64_t layer = 2 * config.hidden_size;
  for (const LinearShape& linear : linear_layers(config)) layer += linear.out * linear.in;
  const std::int64_t tables = config.tie_word_embeddings ? 1 : 2;
  return tables * config.vocab_size * config.hidden_size + config.num_hidden_layers * layer + config.hidden_size;
}

std::int64_t trainable_parameters(const ModelConfig& config, const AdapterOptions& adapter) {
  if (adapter.type == AdapterType::none) return total_parameters(config);
  const std::vector<std::string> targets = adapted_modules(adapter);
  std::int64_t layer = 0;
  for (const LinearShape& linear : linear_layers(config))
    if (std::find(targets.begin(), targets.end(), linear.name) != targets.end())
      layer += adapter.lora_r * (linear.out + linear.in);
  return layer * config.num_hidden_layers;
}

double flops_per_token(const ModelConfig& config, const AdapterOptions& adapter) {
  std::int64_t layer = 0;
  for (const LinearShape& linear : linear_layers(config)) layer += linear.out * linear.in;
  const double products =
      static_cast<double>(config.num_hidden_layers * layer + config.vocab_size * config.hidden_size);
  if (adapter.type == AdapterType::none) return 6 * products;
  return 4 * products + 6 * static_cast<double>(trainable_parameters(config, adapter));
}

std::vector<std::string> adapted_modules(const AdapterOptions& adapter) {
  if (adapter.lora_target_modules == std::vector<std::string>{"all-linear"}) return kLinearModules;
  std::vector<std::string> targets;
  for (const std::string& name : adapter.lora_target_modules) {
    if (std::find(kLinearModules.begin(), kLinearModules.end(), name) == kLinearModules.end())
      throw Error{Fault::recipe,
                  {},
                  fmt::format("adapter.lora_target_modules: no linear layer is called {}", name),
                  fmt::format("they are {}, or all-linear", fmt::join(kLinearModules, ", "))};
  }
  for (const std::string& name : kLinearModules)
    if (std::find(adapter.lora_target_modules.begin(), adapter.lora_target_modules.end(), name) !=
        adapter.lora_target_modules.end())
      targets.push_back(name);
  return targets;
}

Plan make_plan(const Recipe& recipe, const ModelConfig& config, const Loader* loader,
               const TokenDataset* evaluation_rows) {
  Plan plan;
  plan.parameters = total_parameters(config);
  plan.trainable_parameters = trainable_parameters(config, recipe.adapter);
  plan.steps = recipe.train.max_steps;
  plan.micro_batch_tokens =
      recipe.train.per_device_train_batch_size * std::min(recipe.data.max_length, config.max_position_embeddings);
  if (loader != nullptr) {
    plan.steps = loader->total_steps();
    plan.steps_per_epoch = loader->steps_per_epoch();
    plan.tokens_per_epoch = loader->tokens_per_epoch();
    plan.micro_batch_tokens = loader->max_micro_batch_tokens();
  }
  // evaluation keeps no tape: with batches of training's size it needs less, below some size it would only be slow
  constexpr std::int64_t kSmallestLimit = 2048;
  plan.evaluation_limit = std::max(plan.micro_batch_tokens, kSmallestLimit);
  const std::int64_t rows = recipe.eval.per_device_eval_batch_size;
  if (evaluation_rows != nullptr)
    plan.evaluation_tokens = largest_evaluation_batch(*evaluation_rows, rows, plan.evaluation_limit);
  else if (!recipe.data.eval_datasets.empty())
    plan.evaluation_tokens = std::min(plan.evaluation_limit, rows * recipe.data.max_length);
  plan.memory = memory_items(recipe, config, plan);
  return plan;
}

}  // namespace tune
