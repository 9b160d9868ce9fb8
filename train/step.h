#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "data/batch.h"
#include "recipes/schema/recipe.h"
#include "train/model/decoder.h"
#include "train/optim/optimizer.h"

namespace tune {

struct StepOutcome {
  double loss = 0;       // mean negative log-likelihood over the trained tokens of all micro-batches
  double grad_norm = 0;  // before clipping
  double learning_rate = 0;
  std::int64_t tokens = 0;
  std::int64_t trained_tokens = 0;
  std::optional<RouterLoad> router_load;  // mean of the micro-batches, by trained tokens; of models with experts
};

/// One optimizer step: every micro-batch forward and backward, clip, update. The gradient is that of the mean over all
/// trained tokens of the step, however the rows are cut into micro-batches.
/// Nothing (and nothing changed but gradients, which are zeroed) when a stop was asked for in between.
/// Error{Fault::running} before the update when loss or gradient is not finite: step, first bad tensor, what to try.
std::optional<StepOutcome> optimizer_step(Decoder& decoder, Optimizer& optimizer,
                                          const std::vector<PackedBatch>& micro_batches, const TrainOptions& options,
                                          std::int64_t step, std::int64_t total_steps);

}  // namespace tune
