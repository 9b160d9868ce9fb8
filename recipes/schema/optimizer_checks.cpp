#include <fmt/format.h>

#include "recipes/schema/checks.h"
#include "recipes/schema/spelling.h"

namespace tune {
namespace {

// One function a sentence, named after it.

void updates_in_the_backward_pass_are_final(const Recipe& recipe, Reading& reading) {
  const TrainOptions& train = recipe.train;
  if (!train.optimizer_in_backward) return;
  const auto refuse = [&](const std::string& why, const std::string& remedy) {
    reading.problems.add(reading.place_of("train.optimizer_in_backward"), "optimizer_in_backward is true, but " + why,
                         remedy);
  };
  if (has_adapter(recipe.adapter))
    refuse(fmt::format("adapter.type is {}: an adapter's gradients are small", spelling(recipe.adapter.type)),
           "leave it out, or write adapter.type: none");
  if (train.gradient_accumulation_steps > 1)
    refuse(fmt::format("gradient_accumulation_steps is {}: a layer is updated in its first backward pass",
                       train.gradient_accumulation_steps),
           "write gradient_accumulation_steps: 1 and a larger per_device_train_batch_size");
  if (train.max_grad_norm > 0)
    refuse(fmt::format("max_grad_norm is {}: the norm is known only when all is updated", train.max_grad_norm),
           "write max_grad_norm: 0");
  if (train.precision == Precision::fp16)
    refuse("precision is fp16: whether its gradients overflow is known at the end of a step only",
           "leave it out, or write precision: bf16");
  if (recipe.distributed.strategy == Strategy::shard)
    refuse("distributed.strategy is shard: it is for one rank", "leave one of the two out");
}

void adafactor_needs_whole_matrices(const Recipe& recipe, Reading& reading) {
  if (recipe.train.optim == OptimizerType::adafactor && !has_adapter(recipe.adapter) &&
      recipe.distributed.strategy == Strategy::shard)
    reading.problems.add(reading.place_of("train.optim"),
                         "optim is adafactor, whose rows and columns strategy shard cuts apart",
                         "write adamw_8bit, or leave strategy out");
}

void weights_rounded_at_random_are_trained_ones_in_bf16(const Recipe& recipe, Reading& reading) {
  if (!recipe.train.bf16_stochastic_round) return;
  const Dtype dtype = dtype_of(recipe);
  const auto refuse = [&](const std::string& why, const std::string& remedy) {
    reading.problems.add(reading.place_of("train.bf16_stochastic_round"), "bf16_stochastic_round is true, but " + why,
                         remedy);
  };
  if (has_adapter(recipe.adapter))
    refuse(fmt::format("adapter.type is {}: an adapter has fp32 masters", spelling(recipe.adapter.type)),
           "leave it out, or write adapter.type: none");
  if (dtype != Dtype::bf16)
    refuse(fmt::format("the weights are of {}", spelling(dtype)), "leave it out, or write precision: bf16");
}

void what_is_offloaded_is_large(const Recipe& recipe, Reading& reading) {
  const OptimizerType optim = recipe.train.optim;
  if (!recipe.train.offload_optimizer || optim == OptimizerType::adamw || optim == OptimizerType::adamw_8bit) return;
  reading.problems.add(
      reading.place_of("train.offload_optimizer"),
      fmt::format("offload_optimizer is true, but optim is {}, {}", spelling(optim),
                  optim == OptimizerType::sgd ? "which has no state" : "whose state is a number a row and column"),
      "leave it out, or write optim: adamw or adamw_8bit");
}

}  // namespace

void check_optimizer_combinations(const Recipe& recipe, Reading& reading) {
  updates_in_the_backward_pass_are_final(recipe, reading);
  adafactor_needs_whole_matrices(recipe, reading);
  weights_rounded_at_random_are_trained_ones_in_bf16(recipe, reading);
  what_is_offloaded_is_large(recipe, reading);
}

}  // namespace tune
