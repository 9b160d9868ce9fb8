#include "train/objectives/kto.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <cmath>

#include "train/kernels/upload.h"
#include "train/objectives/answers.h"

namespace tune {
namespace {

enum class Answer { own, mismatched };

// Each row's prompt with one of its two answers: documents like any other, without what the other answer costs.
struct SingleAnswers {
  PackedBatch batch;
  AnswerTargets targets;
};

SingleAnswers single_answers(const PackedBatch& rows, Answer which) {
  SingleAnswers singles;
  PackedBatch& batch = singles.batch;
  batch.document_starts = {0};
  for (const PreferencePair& row : rows.pairs) {
    const auto start = static_cast<std::int64_t>(batch.ids.size());
    const auto lay = [&](std::int32_t begin, std::int32_t end) {
      batch.ids.insert(batch.ids.end(), rows.ids.begin() + begin, rows.ids.begin() + end);
      batch.positions.insert(batch.positions.end(), rows.positions.begin() + begin, rows.positions.begin() + end);
    };
    const bool own = which == Answer::own;
    const std::int32_t begin = own ? row.chosen : row.rejected, end = own ? row.rejected : row.end;
    lay(row.start, row.chosen);
    lay(begin, end);
    std::vector<Target> targets = own ? row.chosen_targets : row.rejected_targets;
    for (Target& target : targets) target.row += start - row.start - (target.row < row.chosen ? 0 : begin - row.chosen);
    singles.targets.add(targets);
    batch.document_starts.push_back(static_cast<std::int32_t>(batch.ids.size()));
  }
  batch.labels.assign(batch.ids.size(), kNoLabel);
  return singles;
}

}  // namespace

KtoLoss kto_loss(const PreferenceOptions& options, double log_ratio, double kl, bool good) {
  const double sign = good ? 1 : -1, weight = good ? options.desirable_weight : options.undesirable_weight;
  const double worse = 1 / (1 + std::exp(sign * options.beta * (log_ratio - kl)));  // 1 - value, whose slope is
  return {weight * worse, -sign * weight * options.beta * worse * (1 - worse), options.beta * log_ratio};
}

double kl_estimate(double sum, double rows) {
  const double mean = sum / rows;
  return mean < 0 ? 0 : mean;  // what isn't finite stays so, and stops the run
}

double mismatched_log_ratios(Decoder& decoder, const PackedBatch& batch,
                             std::span<const PairLogProbabilities> reference) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const auto [answers, targets] = single_answers(batch, Answer::mismatched);
  const at::Tensor hidden = decoder.forward(answers, false);
  const std::vector<double> policy =
      log_probabilities(decoder, hidden.index_select(0, upload(targets.rows, hidden.device())),
                        upload(targets.labels, hidden.device()), targets.counts);
  double sum = 0;
  for (std::size_t i = 0; i < policy.size(); ++i) sum += policy[i] - reference[i].rejected;
  return sum;
}

void add_answer(PreferenceSums& sums, const KtoLoss& loss, double log_probability, bool good) {
  sums.pairs += 1;
  (good ? sums.chosen : sums.rejected) += 1;
  (good ? sums.chosen_reward : sums.rejected_reward) += loss.reward;
  (good ? sums.chosen_log_probability : sums.rejected_log_probability) += log_probability;
}

Loss kto_batch_loss(Decoder& decoder, const PackedBatch& batch, const PreferenceOptions& options,
                    std::span<const PairLogProbabilities> reference, double kl, double scale) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const auto [answers, targets] = single_answers(batch, Answer::own);
  at::Tensor hidden = decoder.forward(answers, true);
  const at::Tensor rows = upload(targets.rows, hidden.device()), labels = upload(targets.labels, hidden.device());
  hidden = hidden.index_select(0, rows);
  const std::vector<double> policy = log_probabilities(decoder, hidden, labels, targets.counts);
  Loss loss;
  PreferenceSums sums;
  std::vector<double> slopes;
  for (std::size_t i = 0; i < policy.size(); ++i) {
    const bool good = batch.pairs[i].label.value();
    const KtoLoss answer = kto_loss(options, policy[i] - reference[i].chosen, kl, good);
    loss.sum += answer.loss;
    loss.trained_tokens += targets.counts[i];
    add_answer(sums, answer, policy[i], good);
    slopes.push_back(scale * answer.by_answer);
  }
  loss.preference = sums;
  if (backward_follows(decoder, loss.sum))
    decoder.backward(log_probability_gradients(decoder, hidden, labels, targets.counts, slopes), rows,
                     decoder.options().router_aux_loss_coef * scale * sums.pairs);
  loss.router_load = decoder.router_load();
  return loss;
}

}  // namespace tune
