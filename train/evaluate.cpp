#include "train/evaluate.h"

#include <cmath>

#include "train/objectives/supervised.h"
#include "train/stop.h"

namespace tune {

double Score::perplexity() const { return std::exp(loss()); }

std::optional<Evaluation> evaluate(Decoder& decoder, const TokenDataset& dataset,
                                   const std::vector<DatasetOptions>& sources, std::int64_t rows_per_batch,
                                   World& world, std::int64_t max_tokens) {
  decoder.no_dropout();
  std::vector<double> sums(1 + 2 * sources.size());  // stops asked for; then loss and tokens of each source
  EvaluationBatches batches(dataset, rows_per_batch, max_tokens);
  for (std::int64_t i = 0; const std::optional<SourcedBatch> batch = batches.next(); ++i) {
    if (i % world.rank().count != world.rank().number) continue;
    if (stop_requested() != 0) {
      sums[0] = 1;
      break;
    }
    const Loss loss = supervised_loss(decoder, batch->rows, 1.0, false);
    const std::size_t at = 1 + 2 * static_cast<std::size_t>(batch->source);
    sums[at] += loss.sum;
    sums[at + 1] += static_cast<double>(loss.trained_tokens);
  }
  sums = world.sum(std::move(sums));
  if (sums[0] > 0) return std::nullopt;
  Evaluation evaluation;
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
