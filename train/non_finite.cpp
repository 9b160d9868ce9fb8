#include "train/non_finite.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "train/model/overflow.h"
#include "train/optim/clip.h"

namespace tune {
namespace {

// In the order in which a step meets them: weights, what they make of the batches, logits, gradients.
std::string first_bad_tensor(Decoder& decoder, const std::vector<PackedBatch>& micro_batches,
                             const std::vector<double>& losses, std::int64_t step) {
  for (const Parameter& parameter : decoder.trained())
    if (!std::isfinite(largest_value(parameter.value))) return parameter.name + " itself";
  for (const bool finite : {false, true}) {  // batches whose loss is bad first
    if (decoder.has_keeper()) break;         // the other ranks don't pass their part of the weights on any more
    for (std::size_t i = 0; i < micro_batches.size(); ++i) {
      if (std::isfinite(losses[i]) != finite) continue;
      decoder.set_step(step, static_cast<std::int64_t>(i));
      const std::string module = decoder.first_overflow(micro_batches[i]);
      decoder.no_dropout();
      if (!module.empty()) return "the output of " + module;
      if (!finite) return "the logits, output of lm_head";
    }
  }
  const std::string gradient = first_non_finite(decoder.trained());
  return gradient.empty() ? "the sum of the gradients' squares" : "the gradient of " + gradient;
}

// changed: some weights were, in this step.
std::string what_to_try(const TrainOptions& options, Dtype dtype, const StepOutcome& outcome, std::int64_t step,
                        bool changed) {
  // Gradients that overflow without being scaled are too large for fp16, whatever the learning rate.
  if (outcome.loss_scale && std::isfinite(outcome.loss))
    return "set train.precision: bf16 or fp32; earlier checkpoints are intact";
  std::vector<std::string> ways;
  if (step > 0) {
    ways.push_back(fmt::format("lower train.learning_rate ({} now)", options.learning_rate));
    if (options.warmup_steps == 0 && options.warmup_ratio == 0) ways.emplace_back("set train.warmup_ratio: 0.03");
    if (options.max_grad_norm == 0 && !options.optimizer_in_backward) ways.emplace_back("set train.max_grad_norm: 1.0");
  }
  if (dtype == Dtype::bf16)
    ways.emplace_back(options.precision == Precision::fp8 ? "set train.precision: bf16" : "set train.precision: fp32");
  if (dtype == Dtype::fp16) ways.emplace_back("set train.precision: bf16 or fp32");
  if (step > 0 || changed) return fmt::format("{}; earlier checkpoints are intact", fmt::join(ways, ", or "));
  ways.emplace_back("fetch the model again");
  return fmt::format("no weight was changed yet, so it is the model or the data: {}", fmt::join(ways, ", or "));
}

}  // namespace

Error non_finite_error(Decoder& decoder, const std::vector<PackedBatch>& micro_batches,
                       const std::vector<double>& losses, const StepOutcome& outcome, const TrainOptions& options,
                       std::int64_t step) {
  return {Fault::running,
          {},
          fmt::format("step {}: loss {}{}, gradient norm {}, first bad tensor: {}; nothing was updated", step + 1,
                      number_text(outcome.loss),
                      outcome.loss_scale ? fmt::format(" (scaled by {})", *outcome.loss_scale) : "",
                      number_text(outcome.grad_norm), first_bad_tensor(decoder, micro_batches, losses, step)),
          what_to_try(options, decoder.options().dtype, outcome, step, false)};
}

Error non_finite_error(std::span<const Parameter> unit, const TrainOptions& options, Dtype dtype, std::int64_t step) {
  const std::string name = first_non_finite(unit);
  const std::string what = name.empty() ? fmt::format("norm from {} to {}", unit.front().name, unit.back().name)
                                        : fmt::format("of {}", name);
  return {Fault::running,
          {},
          fmt::format("step {}: the gradient {} is not finite; layers behind it were updated already", step + 1, what),
          what_to_try(options, dtype, {}, step, true)};
}

}  // namespace tune
