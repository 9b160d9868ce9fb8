#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/loader.h"
#include "recipes/schema/recipe.h"
#include "train/model/decoder.h"
#include "train/objectives/objective.h"
#include "train/parallel/world.h"

namespace tune {

/// Mean negative log-likelihood over trained tokens, natural log; stage dpo: mean loss over pairs or single answers.
struct Score {
  double loss_sum = 0;
  std::int64_t tokens = 0;  // or pairs, or single answers
  double loss() const { return tokens > 0 ? loss_sum / static_cast<double>(tokens) : 0.0; }
  double perplexity() const;
};

struct Evaluation {
  Score total;
  std::optional<PreferenceSums> preference;  // stage dpo: of all pairs or single answers
  std::optional<double> kl;                  // of kto, from all rows
  std::map<std::string, Score> sources;      // by the path of the data set
};

/// Scores every row of `dataset`, `rows_per_batch` documents and, as far as rows are not longer, `max_tokens` at a
/// time; several ranks share the batches and get the same result. `sources` are the data sets it was made from. Nothing
/// when a stop was asked for in between, of any rank.
std::optional<Evaluation> evaluate(Decoder& decoder, const TokenDataset& dataset,
                                   const std::vector<DatasetOptions>& sources, std::int64_t rows_per_batch,
                                   World& world, std::int64_t max_tokens = 8192, const Objective& objective = {});

}  // namespace tune
