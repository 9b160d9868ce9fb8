#include "train/objectives/preference.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <cmath>

#include "recipes/schema/error.h"
#include "train/kernels/upload.h"
#include "train/objectives/answers.h"

namespace tune {
namespace {

double log_sigmoid(double x) { return x >= 0 ? -std::log1p(std::exp(-x)) : x - std::log1p(std::exp(x)); }
double sigmoid(double x) { return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x)); }

// Answer by answer: of pair i chosen, then rejected.
AnswerTargets targets_of(const PackedBatch& batch) {
  AnswerTargets all;
  for (const PreferencePair& pair : batch.pairs) {
    all.add(pair.chosen_targets);
    all.add(pair.rejected_targets);
  }
  return all;
}

std::vector<PairLogProbabilities> in_pairs(const std::vector<double>& sums) {
  std::vector<PairLogProbabilities> pairs;
  for (std::size_t i = 0; i < sums.size(); i += 2) pairs.push_back({sums[i], sums[i + 1]});
  return pairs;
}

}  // namespace

void PreferenceSums::add(const PreferenceSums& more) {
  pairs += more.pairs;
  chosen += more.chosen;
  rejected += more.rejected;
  chosen_reward += more.chosen_reward;
  rejected_reward += more.rejected_reward;
  right += more.right;
  chosen_log_probability += more.chosen_log_probability;
  rejected_log_probability += more.rejected_log_probability;
}

bool needs_reference(PreferenceLoss loss) { return loss != PreferenceLoss::orpo && loss != PreferenceLoss::simpo; }

PairLoss pair_loss(const PreferenceOptions& options, const PairLogProbabilities& policy,
                   const PairLogProbabilities& reference, std::int64_t chosen_tokens, std::int64_t rejected_tokens) {
  const double beta = options.beta, smooth = options.label_smoothing;
  const double n_chosen = static_cast<double>(chosen_tokens), n_rejected = static_cast<double>(rejected_tokens);
  PairLoss result;
  // of logits x: loss -log sigmoid(x) with probability 1 - smooth, else -log sigmoid(-x); returns d loss / d x
  const auto logistic = [&](double x) {
    result.loss = -(1 - smooth) * log_sigmoid(x) - smooth * log_sigmoid(-x);
    return -(1 - smooth) * sigmoid(-x) + smooth * sigmoid(x);
  };
  const auto by_sums = [&](double slope, double of_chosen, double of_rejected) {
    result.by_chosen = slope * of_chosen;
    result.by_rejected = -slope * of_rejected;
  };
  if (needs_reference(options.loss_type)) {
    const double chosen = policy.chosen - reference.chosen, rejected = policy.rejected - reference.rejected;
    result.chosen_reward = beta * chosen;
    result.rejected_reward = beta * rejected;
    const double margin = beta * (chosen - rejected);
    switch (options.loss_type) {
      case PreferenceLoss::hinge:
        result.loss = std::max(0.0, 1 - margin);
        by_sums(margin < 1 ? -beta : 0.0, 1, 1);
        return result;
      case PreferenceLoss::ipo: {
        const double off = chosen / n_chosen - rejected / n_rejected - 1 / (2 * beta);
        result.loss = off * off;
        by_sums(2 * off, 1 / n_chosen, 1 / n_rejected);
        return result;
      }
      default:
        by_sums(logistic(margin) * beta, 1, 1);
        return result;
    }
  }
  const double chosen = policy.chosen / n_chosen, rejected = policy.rejected / n_rejected;
  result.chosen_reward = beta * chosen;
  result.rejected_reward = beta * rejected;
  if (options.loss_type == PreferenceLoss::simpo) {
    by_sums(logistic(beta * (chosen - rejected) - options.simpo_gamma) * beta, 1 / n_chosen, 1 / n_rejected);
    return result;
  }
  // log odds of a mean probability p = e^m: m - log(1 - e^m), whose slope is 1 / (1 - e^m)
  const auto log_odds = [](double mean) { return mean - std::log(-std::expm1(mean)); };
  const double x = log_odds(chosen) - log_odds(rejected), slope = -sigmoid(-x) * beta;
  result.loss = -chosen - beta * log_sigmoid(x);
  result.by_chosen = (-1 + slope / -std::expm1(chosen)) / n_chosen;
  result.by_rejected = -slope / -std::expm1(rejected) / n_rejected;
  return result;
}

std::vector<PairLogProbabilities> pair_log_probabilities(Decoder& decoder, const PackedBatch& batch,
                                                         bool with_adapter) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const AnswerTargets targets = targets_of(batch);
  decoder.set_adapter_enabled(with_adapter);
  const at::Tensor hidden = decoder.forward(batch, false);
  std::vector<double> sums = log_probabilities(decoder, hidden.index_select(0, upload(targets.rows, hidden.device())),
                                               upload(targets.labels, hidden.device()), targets.counts);
  decoder.set_adapter_enabled(true);  // the head may be the adapter's, too
  return in_pairs(sums);
}

Loss preference_loss(Decoder& decoder, const PackedBatch& batch, const PreferenceOptions& options,
                     std::span<const PairLogProbabilities> reference, double scale, bool backward) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const AnswerTargets targets = targets_of(batch);
  at::Tensor hidden = decoder.forward(batch, backward);
  const at::Tensor rows = upload(targets.rows, hidden.device()), labels = upload(targets.labels, hidden.device());
  hidden = hidden.index_select(0, rows);
  const std::vector<PairLogProbabilities> policy = in_pairs(log_probabilities(decoder, hidden, labels, targets.counts));
  Loss loss;
  PreferenceSums sums;
  std::vector<double> slopes;
  for (std::size_t i = 0; i < batch.pairs.size(); ++i) {
    const std::int64_t n_chosen = targets.counts[2 * i], n_rejected = targets.counts[2 * i + 1];
    const PairLoss pair =
        pair_loss(options, policy[i], needs_reference(options.loss_type) ? reference[i] : PairLogProbabilities{},
                  n_chosen, n_rejected);
    loss.sum += pair.loss;
    loss.trained_tokens += n_chosen + n_rejected;
    sums.pairs += 1;
    sums.chosen += 1;
    sums.rejected += 1;
    sums.chosen_reward += pair.chosen_reward;
    sums.rejected_reward += pair.rejected_reward;
    sums.right += pair.chosen_reward > pair.rejected_reward ? 1 : 0;
    sums.chosen_log_probability += policy[i].chosen;
    sums.rejected_log_probability += policy[i].rejected;
    slopes.insert(slopes.end(), {scale * pair.by_chosen, scale * pair.by_rejected});
  }
  loss.preference = sums;
  if (backward && backward_follows(decoder, loss.sum))
    decoder.backward(log_probability_gradients(decoder, hidden, labels, targets.counts, slopes), rows,
                     decoder.options().router_aux_loss_coef * scale * static_cast<double>(batch.pairs.size()));
  loss.router_load = decoder.router_load();
  return loss;
}

}  // namespace tune
