#include "train/plan/plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "recipes/schema/error.h"
#include "recipes/schema/lora_shape.h"
#include "train/plan/memory.h"
#include "train/plan/offload.h"

namespace tune {
namespace {

std::string module_path(std::int64_t layer, const std::string& linear) {
  const bool attention = linear == "q_proj" || linear == "k_proj" || linear == "v_proj" || linear == "o_proj";
  return fmt::format("model.layers.{}.{}.{}", layer,
                     attention          ? "self_attn"
                     : linear == "gate" ? "block_sparse_moe"
                                        : "mlp",
                     linear);
}

// A key that means no adapted module is a mistake. All experts' factors are one tensor in PEFT.
template <class Value>
void check_patterns(const std::map<std::string, Value>& pattern, const char* name,
                    const std::vector<std::string>& targets, const ModelConfig& config) {
  for (const auto& [key, value] : pattern) {
    const bool expert = key.ends_with("w1") || key.ends_with("w2") || key.ends_with("w3");
    bool found = false;
    for (std::int64_t layer = 0; layer < config.num_hidden_layers && !found && !expert; ++layer)
      found = std::any_of(targets.begin(), targets.end(),
                          [&](const std::string& target) { return names_module(key, module_path(layer, target)); });
    if (found) continue;
    throw Error{Fault::recipe,
                {},
                expert ? fmt::format("adapter.{} has {}; all experts have the same rank and alpha", name, key)
                       : fmt::format("adapter.{} has {}, which is no module that gets an adapter", name, key),
                fmt::format("they are {}, or longer ends of a name such as layers.0.self_attn.q_proj",
                            fmt::join(targets, ", "))};
  }
}

// Before anything is loaded or waits for a device.
void require_fp8_sizes(const Recipe& recipe, const ModelConfig& config) {
  if (recipe.train.precision != Precision::fp8) return;
  for (const LinearKind& linear : linear_kinds(config))
    if (linear.name != "gate" && (linear.out % kFp8Multiple != 0 || linear.in % kFp8Multiple != 0))
      throw Error{Fault::recipe, recipe.place_of("train.precision"),
                  fmt::format("precision is fp8, whose products take multiples of {}; {} is [{}, {}]", kFp8Multiple,
                              linear.name, linear.out, linear.in),
                  "write precision: bf16"};
}

}  // namespace

bool contains(const std::vector<std::string>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::vector<LinearKind> linear_kinds(const ModelConfig& c) {
  const std::int64_t h = c.hidden_size, f = c.intermediate_size;
  const std::int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  std::vector<LinearKind> kinds = {{"q_proj", q, h}, {"k_proj", kv, h}, {"v_proj", kv, h}, {"o_proj", h, q}};
  if (const std::int64_t experts = c.num_local_experts, active = c.num_experts_per_tok; experts > 0)
    kinds.insert(kinds.end(), {{"gate", experts, h},
                               {"w1", f, h, experts, active},
                               {"w3", f, h, experts, active},
                               {"w2", h, f, experts, active}});
  else
    kinds.insert(kinds.end(), {{"gate_proj", f, h}, {"up_proj", f, h}, {"down_proj", h, f}});
  return kinds;
}

std::int64_t Plan::peak_bytes() const {
  return std::accumulate(memory.begin(), memory.end(), std::int64_t{0},
                         [](std::int64_t sum, const MemoryItem& item) { return sum + item.bytes; });
}

std::int64_t total_parameters(const ModelConfig& config) {
  std::int64_t layer = 2 * config.hidden_size;
  for (const LinearKind& linear : linear_kinds(config)) layer += linear.count * linear.out * linear.in;
  const std::int64_t tables = config.tie_word_embeddings ? 1 : 2;
  return tables * config.vocab_size * config.hidden_size + config.num_hidden_layers * layer + config.hidden_size;
}

std::int64_t trainable_parameters(const ModelConfig& config, const AdapterOptions& adapter, bool train_router) {
  if (!has_adapter(adapter)) {
    const std::int64_t routers = config.num_hidden_layers * config.num_local_experts * config.hidden_size;
    return total_parameters(config) - (train_router ? 0 : routers);
  }
  const std::vector<std::string> targets = adapted_modules(adapter, config);
  std::int64_t all = 0;
  for (const LinearKind& linear : linear_kinds(config))
    if (contains(targets, linear.name))
      all += linear.count * (ranks_of(adapter, config, linear.name) * (linear.out + linear.in) +
                             (adapter.use_dora ? config.num_hidden_layers * linear.out : 0));
  const auto rows = static_cast<std::int64_t>(adapter.modules_to_save.size()) * config.vocab_size +
                    std::ssize(adapter.trainable_tokens);
  return all + rows * config.hidden_size;
}

std::int64_t ranks_of(const AdapterOptions& adapter, const ModelConfig& config, const std::string& linear) {
  if (adapter.rank_pattern.empty()) return config.num_hidden_layers * adapter.lora_r;
  std::int64_t sum = 0;
  for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer)
    sum += rank_of(adapter, module_path(layer, linear));
  return sum;
}

std::int64_t largest_rank_of(const AdapterOptions& adapter, const ModelConfig& config, const std::string& linear) {
  std::int64_t largest = 0;
  for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer)
    largest = std::max(largest, rank_of(adapter, module_path(layer, linear)));
  return largest;
}

double flops_per_token(const ModelConfig& config, const AdapterOptions& adapter) {
  const bool full = !has_adapter(adapter);
  const std::vector<std::string> targets = full ? std::vector<std::string>{} : adapted_modules(adapter, config);
  std::int64_t weights = 0, factors = 0;  // that a token passes, in a layer and in all
  for (const LinearKind& linear : linear_kinds(config)) {
    weights += linear.active * linear.out * linear.in;
    if (contains(targets, linear.name))
      factors += linear.active * ranks_of(adapter, config, linear.name) * (linear.out + linear.in);
  }
  const auto layers = static_cast<double>(config.num_hidden_layers);
  const double products = layers * static_cast<double>(weights) +
                          static_cast<double>(config.vocab_size) * static_cast<double>(config.hidden_size);
  return full ? 6 * products : 4 * products + 6 * static_cast<double>(factors);
}

std::vector<std::string> adapted_modules(const AdapterOptions& adapter, const ModelConfig& config) {
  std::vector<std::string> known, targets;
  for (const LinearKind& linear : linear_kinds(config)) known.push_back(linear.name);
  const std::vector<std::string>& wanted = adapter.lora_target_modules;
  for (const std::string& name : wanted)
    if (name != "all-linear" && !contains(known, name))
      throw Error{Fault::recipe,
                  {},
                  fmt::format("adapter.lora_target_modules: this model has no linear layer called {}", name),
                  fmt::format("they are {}, or all-linear", fmt::join(known, ", "))};
  for (const std::string& name : known)
    if (contains(wanted, name) || (contains(wanted, "all-linear") && name != "gate")) targets.push_back(name);
  if (contains(targets, "w1") != contains(targets, "w3"))
    throw Error{Fault::recipe,
                {},
                "adapter.lora_target_modules holds only one of w1 and w3, which PEFT can't load",
                "name both, or neither"};
  if (config.tie_word_embeddings && !(adapter.modules_to_save.empty() && adapter.trainable_tokens.empty()))
    throw Error{Fault::recipe,
                {},
                fmt::format("adapter.{}: embed_tokens and lm_head are one tensor in this model",
                            adapter.modules_to_save.empty() ? "trainable_tokens" : "modules_to_save"),
                "leave it out, or tune all weights (adapter.type: none)"};
  check_patterns(adapter.rank_pattern, "rank_pattern", targets, config);
  check_patterns(adapter.alpha_pattern, "alpha_pattern", targets, config);
  if (adapter.use_dora && config.num_local_experts > 0)
    for (const char* name : {"gate", "w1", "w2", "w3"})
      if (contains(targets, name))
        throw Error{Fault::recipe,
                    {},
                    fmt::format("adapter.use_dora: PEFT has no DoRA for experts and their routers ({})", name),
                    "write adapter.lora_target_modules: [q_proj, k_proj, v_proj, o_proj], or use_dora: false"};
  return targets;
}

bool trains_routers(const Recipe& recipe, const ModelConfig& config) {
  if (config.num_local_experts == 0) return false;
  return has_adapter(recipe.adapter) ? contains(adapted_modules(recipe.adapter, config), "gate")
                                     : recipe.train.train_router;
}

double router_aux_loss_coef(const Recipe& recipe, const ModelConfig& config) {
  if (config.num_local_experts == 0) return 0;
  return recipe.train.router_aux_loss_coef.value_or(trains_routers(recipe, config) ? config.router_aux_loss_coef : 0.0);
}

Plan make_plan(const Recipe& recipe, const ModelConfig& config, const Loader* loader,
               const TokenDataset* evaluation_rows) {
  require_fp8_sizes(recipe, config);
  Plan plan;
  plan.parameters = total_parameters(config);
  plan.trainable_parameters = trainable_parameters(config, recipe.adapter, recipe.train.train_router);
  plan.steps = recipe.train.max_steps;
  plan.micro_batch_tokens = recipe.train.per_device_train_batch_size * recipe.data.max_length;
  if (loader != nullptr) {
    plan.ranks = loader->ranks();
    if (recipe.train.optimizer_in_backward && plan.ranks > 1)
      throw Error{Fault::recipe,
                  {},
                  fmt::format("train.optimizer_in_backward is true, but there are {} ranks", plan.ranks),
                  "leave it out, and write distributed.strategy: shard for less memory, or start one rank"};
    plan.steps = loader->total_steps();
    plan.steps_per_epoch = loader->steps_per_epoch();
    plan.tokens_per_epoch = loader->tokens_per_epoch();
    plan.micro_batch_tokens = loader->max_taped_tokens();
    plan.attended_tokens = loader->max_attended_tokens();
  }
  // evaluation keeps no tape: with batches of training's size it needs less, below some size it would only be slow
  constexpr std::int64_t kSmallestLimit = 2048;
  plan.evaluation_limit = std::max(plan.micro_batch_tokens, kSmallestLimit);
  const std::int64_t rows = recipe.eval.per_device_eval_batch_size;
  if (evaluation_rows != nullptr)
    plan.evaluation_tokens = largest_evaluation_batch(*evaluation_rows, rows, plan.evaluation_limit);
  else if (!recipe.data.eval_datasets.empty())
    plan.evaluation_tokens = std::min(plan.evaluation_limit, rows * recipe.data.max_length);
  if (loader != nullptr && loader->max_micro_batch_tokens() > loader->max_taped_tokens())  // kto's pass before the step
    plan.evaluation_tokens = std::max(plan.evaluation_tokens, loader->max_micro_batch_tokens());
  plan.memory = memory_items(recipe, config, plan);
  plan.host_memory = host_memory_items(recipe, config, plan.ranks);
  return plan;
}

}  // namespace tune
