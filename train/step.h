#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "data/loader.h"
#include "recipes/schema/recipe.h"
#include "train/model/decoder.h"
#include "train/objectives/objective.h"
#include "train/optim/loss_scaler.h"
#include "train/optim/optimizer.h"
#include "train/parallel/gradient_sum.h"
#include "train/parallel/world.h"

namespace tune {

/// The same on every rank.
struct StepOutcome {
  double loss = 0;       // mean over the trained tokens of all micro-batches, or over their pairs or single answers
  double grad_norm = 0;  // before clipping, of the loss as it is
  double learning_rate = 0;
  std::int64_t tokens = 0;
  std::int64_t trained_tokens = 0;
  bool stop_requested = false;               // of some rank
  std::optional<double> loss_scale;          // of the step, where there is a scaler
  bool skipped = false;                      // the scaled gradients overflowed: nothing was updated
  std::optional<PreferenceSums> preference;  // of all ranks' pairs or single answers
  std::optional<double> kl;                  // of kto, from all ranks' rows
  std::optional<RouterLoad> router_load;     // mean of the micro-batches, by trained tokens; of models with experts
};

/// Over all ranks.
PreferenceSums summed(World& world, const PreferenceSums& mine);

/// One optimizer step: every micro-batch of this rank's share forward and backward, gradients summed over the ranks,
/// clip, update. The gradient is that of the mean over all trained tokens (or pairs) of the step, however the rows are
/// cut into micro-batches and dealt to ranks. Nothing (and nothing changed but gradients, which are zeroed) when a stop
/// was asked for in between; among several ranks a step is always finished. Error{Fault::running} before the update
/// when loss or gradient is not finite: step, first bad tensor, what to try. With a scaler a step whose loss is finite
/// and whose gradient is not is skipped instead, for as long as the scale can be lowered; all ranks decide alike.
std::optional<StepOutcome> optimizer_step(Decoder& decoder, Optimizer& optimizer, const StepShare& share,
                                          const TrainOptions& options, std::int64_t step, std::int64_t total_steps,
                                          World& world, GradientSum& gradient_sum, const Objective& objective = {},
                                          LossScaler* scaler = nullptr);

}  // namespace tune
