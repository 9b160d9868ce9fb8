#include "train/evaluate.h"

#include <cmath>

#include "train/objectives/objective.h"
#include "train/step.h"
#include "train/stop.h"

namespace tune {

double Score::perplexity() const { return std::exp(loss()); }

std::optional<Evaluation> evaluate(Decoder& decoder, const TokenDataset& dataset,
                                   const std::vector<DatasetOptions>& sources, std::int64_t rows_per_batch,
                                   World& world, std::int64_t max_tokens, const Objective& objective) {
  decoder.no_dropout();
  std::vector<double> sums(1 + 2 * sources.size());  // stops asked for; then loss and tokens of each source
  PreferenceSums preference;
  std::vector<std::pair<std::size_t, Objective::KtoRow>> singles;  // by place in sums; their loss needs all of them
  EvaluationBatches batches(dataset, rows_per_batch, max_tokens);
  // Where the ranks keep the weights together, each passes them as often as the others, and all stop at once.
  const bool together = decoder.has_keeper();
  const auto stop = [&] {
    const double mine = stop_requested() != 0 ? 1 : 0;
    return (together ? world.sum({mine}).front() : mine) > 0;
  };
  std::optional<SourcedBatch> batch = batches.next();
  while (batch) {
    std::optional<SourcedBatch> mine;  // of a round, one batch a rank
    for (std::int64_t rank = 0; rank < world.rank().count && batch; ++rank, batch = batches.next())
      if (rank == world.rank().number) mine = std::move(batch);
    if (stop()) {
      sums[0] = 1;
      break;
    }
    if (!mine) {
      if (together) objective.pass(decoder, 1.0, false);
      continue;
    }
    const std::size_t at = 1 + 2 * static_cast<std::size_t>(mine->source);
    if (objective.needs_kl()) {
      for (const Objective::KtoRow& row : objective.kto_rows(decoder, mine->rows)) singles.emplace_back(at, row);
      continue;
    }
    const Loss loss = objective.loss(decoder, mine->rows, 1.0, false);
    sums[at] += loss.sum;
    sums[at + 1] += loss.preference ? loss.preference->pairs : static_cast<double>(loss.trained_tokens);
    if (loss.preference) preference.add(*loss.preference);
  }
  Evaluation evaluation;
  if (objective.needs_kl()) {
    double log_ratios = 0;
    for (const auto& [at, row] : singles) log_ratios += row.mismatched_log_ratio;
    evaluation.kl = kl_estimate(world.sum({log_ratios}).front(), static_cast<double>(dataset.size()));
    for (const auto& [at, row] : singles) {
      const KtoLoss loss = objective.loss(row, *evaluation.kl);
      sums[at] += loss.loss;
      sums[at + 1] += 1;
      add_answer(preference, loss, row.log_probability, row.good);
    }
  }
  sums = world.sum(std::move(sums));
  preference = summed(world, preference);
  if (sums[0] > 0) return std::nullopt;
  if (preference.pairs > 0) evaluation.preference = preference;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const double loss = sums[1 + 2 * i];
    const auto tokens = static_cast<std::int64_t>(sums[2 + 2 * i]);
    if (tokens == 0) continue;
    for (Score* score : {&evaluation.total, &evaluation.sources[sources[i].path]}) {
      score->loss_sum += loss;
      score->tokens += tokens;
    }
  }
  return evaluation;
}

}  // namespace tune
