#include "train/step.h"

#include <cmath>
#include <numeric>

#include "train/non_finite.h"
#include "train/objectives/supervised.h"
#include "train/optim/clip.h"
#include "train/optim/schedule.h"
#include "train/stop.h"

namespace tune {
namespace {

void add_router_load(StepOutcome& outcome, const RouterLoad& load, double weight) {
  if (!outcome.router_load) outcome.router_load = RouterLoad{0, std::vector<double>(load.expert_share.size())};
  outcome.router_load->aux_loss += weight * load.aux_loss;
  for (std::size_t i = 0; i < load.expert_share.size(); ++i)
    outcome.router_load->expert_share[i] += weight * load.expert_share[i];
}

}  // namespace

std::optional<StepOutcome> optimizer_step(Decoder& decoder, Optimizer& optimizer,
                                          const std::vector<PackedBatch>& micro_batches, const TrainOptions& options,
                                          std::int64_t step, std::int64_t total_steps) {
  StepOutcome outcome;
  for (const PackedBatch& batch : micro_batches) {
    outcome.tokens += batch.tokens();
    outcome.trained_tokens += batch.trained_tokens();
  }
  const double scale = 1.0 / static_cast<double>(std::max<std::int64_t>(outcome.trained_tokens, 1));
  std::vector<double> losses;
  for (std::size_t i = 0; i < micro_batches.size(); ++i) {
    if (stop_requested() != 0) {
      optimizer.zero_gradients();
      return std::nullopt;
    }
    decoder.set_step(step, static_cast<std::int64_t>(i));
    const Loss loss = supervised_loss(decoder, micro_batches[i], scale, true);
    losses.push_back(loss.sum);
    if (loss.router_load) add_router_load(outcome, *loss.router_load, scale * static_cast<double>(loss.trained_tokens));
  }
  decoder.no_dropout();
  outcome.loss = std::accumulate(losses.begin(), losses.end(), 0.0) * scale;
  outcome.grad_norm = clip_gradients(decoder.trained(), options.max_grad_norm);
  if (!std::isfinite(outcome.loss) || !std::isfinite(outcome.grad_norm))
    throw non_finite_error(decoder, micro_batches, losses, outcome, options, step);
  outcome.learning_rate = learning_rate_at(options, step, total_steps);
  optimizer.step(outcome.learning_rate);
  return outcome;
}

}  // namespace tune
