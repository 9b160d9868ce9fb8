#include "train/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tune {

std::int64_t warmup_steps(const TrainOptions& options, std::int64_t total_steps) {
  if (options.warmup_steps > 0) return options.warmup_steps;
  return static_cast<std::int64_t>(std::ceil(options.warmup_ratio * static_cast<double>(total_steps)));
}

double learning_rate_at(const TrainOptions& options, std::int64_t step, std::int64_t total_steps) {
  const std::int64_t warmup = warmup_steps(options, total_steps);
  const auto share = [](std::int64_t part, std::int64_t whole) {
    return static_cast<double>(part) / static_cast<double>(std::max<std::int64_t>(1, whole));
  };
  if (step < warmup) return options.learning_rate * share(step, warmup);
  switch (options.lr_scheduler_type) {
    case Scheduler::constant:
      return options.learning_rate;
    case Scheduler::linear:
      return options.learning_rate * std::max(0.0, share(total_steps - step, total_steps - warmup));
    case Scheduler::cosine:
      return options.learning_rate *
             std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * share(step - warmup, total_steps - warmup))));
    case Scheduler::wsd: {
      const auto decay = static_cast<std::int64_t>(options.decay_ratio * static_cast<double>(total_steps));
      return step < total_steps - decay ? options.learning_rate
                                        : options.learning_rate * share(total_steps - step, decay);
    }
  }
  return options.learning_rate;
}

}  // namespace tune
