#pragma once
#include <optional>
#include <utility>
#include <vector>

#include "train/step.h"

namespace tune {

/// optimizer_step of one rank that has the whole step.
inline std::optional<StepOutcome> lone_step(Decoder& decoder, Optimizer& optimizer, std::vector<PackedBatch> batches,
                                            const TrainOptions& options, std::int64_t step, std::int64_t total_steps,
                                            LossScaler* scaler = nullptr, const Objective& objective = {}) {
  StepShare share{.micro_batches = std::move(batches)};
  share.rounds = static_cast<std::int64_t>(share.micro_batches.size());
  for (const PackedBatch& batch : share.micro_batches) {
    share.tokens += batch.tokens();
    share.trained_tokens += batch.trained_tokens();
    share.pairs += std::ssize(batch.pairs);
  }
  World alone;
  GradientSum gradient_sum(alone, decoder.trained());
  return optimizer_step(decoder, optimizer, share, options, step, total_steps, alone, gradient_sum, objective, scaler);
}

}  // namespace tune
