#include "train/step.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>
#include <utility>

#include "train/non_finite.h"
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

// Loss, stop and router load of all ranks into `outcome`. Returns the first rank whose own losses are not finite, or 0:
// the one that can say most about it.
std::int64_t sum_over_ranks(World& world, std::int64_t experts, const std::vector<double>& losses,
                            StepOutcome& outcome) {
  const double loss = std::accumulate(losses.begin(), losses.end(), 0.0);
  const auto ranks = static_cast<std::size_t>(world.rank().count);
  std::vector<double> values = {loss, stop_requested() != 0 ? 1.0 : 0.0};
  values.resize(2 + ranks);
  values[2 + static_cast<std::size_t>(world.rank().number)] = std::isfinite(loss) ? 0 : 1;
  if (experts > 0) {
    values.push_back(outcome.router_load ? outcome.router_load->aux_loss : 0);
    for (std::size_t i = 0; i < static_cast<std::size_t>(experts); ++i)
      values.push_back(outcome.router_load ? outcome.router_load->expert_share[i] : 0);
  }
  values = world.sum(std::move(values));
  outcome.loss = values[0];
  outcome.stop_requested = values[1] > 0;
  const auto flags = values.begin() + 2, load = flags + static_cast<std::ptrdiff_t>(ranks);
  if (experts > 0) outcome.router_load = RouterLoad{*load, {load + 1, values.end()}};
  const auto bad = std::find(flags, load, 1.0);
  return bad == load ? 0 : bad - flags;
}

// train.optimizer_in_backward: what the backward pass completes is updated while its gradients are there.
class UpdatesInBackward {
 public:
  UpdatesInBackward(Decoder& decoder, Optimizer& optimizer, const TrainOptions& options, std::int64_t step)
      : decoder_(decoder), optimizer_(optimizer), options_(options), step_(step), end_(decoder.trained().size()) {}

  void ready_from(std::size_t first) {
    const std::span<const Parameter> unit(decoder_.trained().data() + first, end_ - first);
    const double norm = gradient_norm(unit);
    if (!std::isfinite(norm)) throw non_finite_error(unit, options_, decoder_.options().dtype, step_);
    squares_ += norm * norm;
    optimizer_.update(first, std::exchange(end_, first));
  }
  double norm() const { return std::sqrt(squares_); }

 private:
  Decoder& decoder_;
  Optimizer& optimizer_;
  const TrainOptions& options_;
  const std::int64_t step_;
  std::size_t end_;  // everything from there on was updated
  double squares_ = 0;
};

bool asked_to_stop(const World& world) { return stop_requested() != 0 && world.alone(); }

// One a micro-batch; fewer where a stop was asked for, which the pass with gradients sees before it needs them.
std::vector<Objective::FirstPass> first_passes(Decoder& decoder, const std::vector<PackedBatch>& micro_batches,
                                               std::size_t rounds, const World& world, const Objective& objective) {
  decoder.no_dropout();
  std::vector<Objective::FirstPass> passes;
  for (std::size_t i = 0; i < rounds && !asked_to_stop(world); ++i) {
    if (i < micro_batches.size())
      passes.push_back(objective.first_pass(decoder, micro_batches[i]));
    else
      objective.pass(decoder, 1.0, false);
  }
  return passes;
}

}  // namespace

PreferenceSums summed(World& world, const PreferenceSums& s) {
  const std::vector<double> all = world.sum({s.pairs, s.chosen, s.rejected, s.chosen_reward, s.rejected_reward, s.right,
                                             s.chosen_log_probability, s.rejected_log_probability});
  return {all[0], all[1], all[2], all[3], all[4], all[5], all[6], all[7]};
}

std::optional<StepOutcome> optimizer_step(Decoder& decoder, Optimizer& optimizer, const StepShare& share,
                                          const TrainOptions& options, std::int64_t step, std::int64_t total_steps,
                                          World& world, GradientSum& gradient_sum, const Objective& objective,
                                          LossScaler* scaler) {
  StepOutcome outcome{.tokens = share.tokens, .trained_tokens = share.trained_tokens};
  const std::int64_t parts = share.pairs > 0 ? share.pairs : outcome.trained_tokens;
  const double scale = 1.0 / static_cast<double>(std::max<std::int64_t>(parts, 1));
  if (scaler != nullptr) outcome.loss_scale = scaler->scale();
  const double gradient_scale = scale * outcome.loss_scale.value_or(1);
  if (share.pairs > 0) outcome.preference.emplace();
  const std::vector<PackedBatch>& micro_batches = share.micro_batches;
  // Where the ranks keep the weights together, each passes them as often as the others.
  const auto rounds = decoder.has_keeper() ? static_cast<std::size_t>(share.rounds) : micro_batches.size();
  std::vector<Objective::FirstPass> passes;
  if (objective.needs_kl()) {
    passes = first_passes(decoder, micro_batches, rounds, world, objective);
    double log_ratios = 0;
    for (const Objective::FirstPass& pass : passes) log_ratios += pass.log_ratios;
    outcome.kl = kl_estimate(world.sum({log_ratios}).front(), static_cast<double>(share.pairs));
  }
  std::vector<double> losses;
  outcome.learning_rate = learning_rate_at(options, step, total_steps);
  UpdatesInBackward updates(decoder, optimizer, options, step);
  for (std::size_t i = 0; i < rounds; ++i) {
    if (asked_to_stop(world)) {
      optimizer.zero_gradients();
      return std::nullopt;
    }
    decoder.set_step(step, static_cast<std::int64_t>(i) * world.rank().count + world.rank().number);
    if (options.optimizer_in_backward) {
      optimizer.begin_step(outcome.learning_rate);
      decoder.on_gradients([&](std::size_t first) { updates.ready_from(first); });
    }
    // What the last backward pass completes is on its way to the other ranks while the pass goes on.
    if (i + 1 == rounds && !world.alone())
      decoder.on_gradients([&](std::size_t first) { gradient_sum.ready_from(first); });
    if (i >= micro_batches.size()) {
      objective.pass(decoder, gradient_scale, true);
      continue;
    }
    const Loss loss = outcome.kl ? objective.loss(decoder, micro_batches[i], passes[i], *outcome.kl, gradient_scale)
                                 : objective.loss(decoder, micro_batches[i], gradient_scale, true);
    losses.push_back(loss.sum);
    if (loss.preference) outcome.preference->add(*loss.preference);
    if (loss.router_load)
      add_router_load(outcome, *loss.router_load,
                      scale * (loss.preference ? loss.preference->pairs : static_cast<double>(loss.trained_tokens)));
  }
  decoder.on_gradients(nullptr);
  decoder.no_dropout();
  decoder.finish_gradients();
  gradient_sum.finish();
  const std::int64_t speaker = sum_over_ranks(world, decoder.config().num_local_experts, losses, outcome);
  outcome.loss *= scale;
  if (outcome.preference) outcome.preference = summed(world, *outcome.preference);
  if (scaler != nullptr) scaler->unscale(decoder.trained());
  const auto sum = [&](double square) { return world.sum({square}).front() / static_cast<double>(world.copies()); };
  if (!std::isfinite(outcome.loss))
    outcome.grad_norm = std::numeric_limits<double>::quiet_NaN();
  else if (options.optimizer_in_backward)
    outcome.grad_norm = updates.norm();
  else
    outcome.grad_norm = clip_gradients(decoder.trained(), options.max_grad_norm,
                                       decoder.trains_slices() ? std::function<double(double)>(sum) : nullptr);
  if (!std::isfinite(outcome.loss) || !std::isfinite(outcome.grad_norm)) {
    outcome.skipped = scaler != nullptr && std::isfinite(outcome.loss) && scaler->skip_step();
    if (outcome.skipped) {
      optimizer.zero_gradients();
      return outcome;
    }
    if (speaker != world.rank().number) world.leave_the_word();
    throw non_finite_error(decoder, micro_batches, losses, outcome, options, step);
  }
  if (scaler != nullptr) scaler->good_step();
  if (options.optimizer_in_backward)
    optimizer.zero_gradients();
  else
    optimizer.step(outcome.learning_rate);
  return outcome;
}

}  // namespace tune
