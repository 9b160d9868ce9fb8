#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoints/huggingface/model_config.h"
#include "data/loader.h"
#include "recipes/schema/recipe.h"

namespace tune {

struct MemoryItem {
  std::string name;  // "base weights", "gradients", "optimizer", "activations", ...
  std::int64_t bytes = 0;
};

/// What is known before the first step. Printed, stored in run.json, compared with the measured peak at the end.
struct Plan {
  std::int64_t ranks = 1;  // memory is that of each
  std::int64_t steps = 0;
  std::int64_t steps_per_epoch = 0;
  std::int64_t tokens_per_epoch = 0;
  std::int64_t attended_tokens = 0;     // of the micro-batch with most, with prompts of pairs twice; 0: none are pairs
  std::int64_t micro_batch_tokens = 0;  // the largest, as the pass with gradients sees it
  std::int64_t evaluation_limit = 0;    // tokens of an evaluation batch during training, unless a row is longer
  std::int64_t evaluation_tokens = 0;   // the largest such batch, or micro-batch without gradients; 0 without either
  std::int64_t parameters = 0;
  std::int64_t trainable_parameters = 0;
  std::vector<MemoryItem> memory;       // at the moment of the peak
  std::vector<MemoryItem> host_memory;  // of a GPU's host, pinned; beside the program
  std::int64_t peak_bytes() const;
};

/// Parameters that the recipe trains; all of them without an adapter.
std::int64_t total_parameters(const ModelConfig& config);
std::int64_t trainable_parameters(const ModelConfig& config, const AdapterOptions& adapter, bool train_router = false);

/// Floating point operations a token costs forward and backward, without attention itself, which depends on the
/// documents' lengths: 6 a trained weight, 4 a frozen one. What is recomputed doesn't count.
double flops_per_token(const ModelConfig& config, const AdapterOptions& adapter);

/// A kind of linear layer: [out, in], `count` of them in a layer, of which a token passes `active`.
struct LinearKind {
  std::string name;  // "q_proj"
  std::int64_t out = 0, in = 0, count = 1, active = 1;
};
std::vector<LinearKind> linear_kinds(const ModelConfig& config);  // in model order

/// Whether the name is one of them.
bool contains(const std::vector<std::string>& names, std::string_view name);

/// Sum over the layers of the rank of the adapter of "q_proj", and the largest of them.
std::int64_t ranks_of(const AdapterOptions& adapter, const ModelConfig& config, const std::string& linear);
std::int64_t largest_rank_of(const AdapterOptions& adapter, const ModelConfig& config, const std::string& linear);

/// Names of the linear layers ("q_proj", ...) an adapter goes on, in model order. Error{Fault::recipe} for those that
/// the model doesn't have, for w1 without w3 or the other way round, which PEFT can't load, and for what else of
/// `adapter` this model has no place for.
std::vector<std::string> adapted_modules(const AdapterOptions& adapter, const ModelConfig& config);

/// Whether routers are trained; the weight of their auxiliary loss.
bool trains_routers(const Recipe& recipe, const ModelConfig& config);
double router_aux_loss_coef(const Recipe& recipe, const ModelConfig& config);

/// loader and evaluation_rows may be null (no data at hand): then steps come from max_steps and every batch is taken as
/// full. Memory is that of train.device, where auto counts as cpu: the caller knows what it means here.
Plan make_plan(const Recipe& recipe, const ModelConfig& config, const Loader* loader,
               const TokenDataset* evaluation_rows = nullptr);

}  // namespace tune
