#include "train/evaluate.h"

#include <cmath>

#include "train/objectives/supervised.h"
#include "train/stop.h"

namespace tune {

double Score::perplexity() const { return std::exp(loss()); }

std::optional<Evaluation> evaluate(Decoder& decoder, const TokenDataset& dataset,
                                   const std::vector<DatasetOptions>& sources, std::int64_t rows_per_batch,
                                   std::int64_t max_tokens) {
  decoder.no_dropout();
  Evaluation evaluation;
  EvaluationBatches batches(dataset, rows_per_batch, max_tokens);
  while (const std::optional<SourcedBatch> batch = batches.next()) {
    if (stop_requested() != 0) return std::nullopt;
    const Loss loss = supervised_loss(decoder, batch->rows, 1.0, false);
    for (Score* score :
         {&evaluation.total, &evaluation.sources[sources[static_cast<std::size_t>(batch->source)].path]}) {
      score->loss_sum += loss.sum;
      score->tokens += loss.trained_tokens;
    }
  }
  return evaluation;
}

}  // namespace tune
