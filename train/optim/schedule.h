#pragma once
#include <cstdint>

#include "recipes/schema/recipe.h"

namespace tune {

/// Learning rate of optimizer step `step` (from 0) of total_steps, as transformers' schedules have it.
/// w = warm-up steps (warmup_steps, else warmup_ratio * total rounded up), lr = options.learning_rate:
///   step < w   lr * step / max(1, w)
///   constant   lr
///   linear     lr * (total - step) / max(1, total - w)
///   cosine     lr * (1 + cos(pi * (step - w) / max(1, total - w))) / 2
///   wsd        lr until decay_ratio * total steps (rounded down) before the end, then linearly to 0
double learning_rate_at(const TrainOptions& options, std::int64_t step, std::int64_t total_steps);

std::int64_t warmup_steps(const TrainOptions& options, std::int64_t total_steps);

}  // namespace tune
