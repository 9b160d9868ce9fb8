#pragma once
#include <vector>

#include "data/batch.h"
#include "recipes/schema/recipe.h"
#include "train/objectives/preference.h"
#include "train/objectives/supervised.h"

namespace tune {

/// What is learned from a micro-batch: next tokens, or pairs of answers.
class Objective {
 public:
  Objective() = default;
  Objective(Stage stage, const PreferenceOptions& options) : pairs_(stage == Stage::dpo), options_(options) {}

  /// Pairs are compared with a reference model: with these sums, one a row of the data set that batches come from, or,
  /// without any, with what the decoder's base gives them when its adapter is off.
  bool needs_reference() const { return pairs_ && tune::needs_reference(options_.loss_type); }
  void set_reference(std::vector<PairLogProbabilities> by_row) { reference_ = std::move(by_row); }

  /// supervised_loss, or preference_loss.
  Loss loss(Decoder& decoder, const PackedBatch& batch, double scale, bool backward) const;

  /// The passes of loss() without a row of one's own: for ranks that keep the weights together with others.
  void pass(Decoder& decoder, double scale, bool backward) const;

 private:
  bool pairs_ = false;
  PreferenceOptions options_;
  std::vector<PairLogProbabilities> reference_;
};

}  // namespace tune
