#pragma once
#include <vector>

#include "data/batch.h"
#include "recipes/schema/recipe.h"
#include "train/objectives/kto.h"
#include "train/objectives/preference.h"
#include "train/objectives/supervised.h"

namespace tune {

/// What is learned from a micro-batch: next tokens, pairs of answers, or single answers.
///
/// The loss of a single answer (kto) depends on all others of its step, through an estimate of how far the policy is
/// from the reference. So a step has a first pass over its micro-batches, without a tape: first_pass(), whose sums make
/// the estimate, kl_estimate(), for the loss() of each.
class Objective {
 public:
  Objective() = default;
  Objective(Stage stage, const PreferenceOptions& options) : pairs_(stage == Stage::dpo), options_(options) {}

  /// Pairs are compared with a reference model: with these sums, one a row of the data set that batches come from, or,
  /// without any, with what the decoder's base gives them when its adapter is off.
  bool needs_reference() const { return pairs_ && tune::needs_reference(options_.loss_type); }
  void set_reference(std::vector<PairLogProbabilities> by_row) { reference_ = std::move(by_row); }

  /// supervised_loss, or preference_loss; not of kto.
  Loss loss(Decoder& decoder, const PackedBatch& batch, double scale, bool backward) const;

  /// The passes of loss() without a row of one's own: for ranks that keep the weights together with others. Of kto
  /// those of kto_loss(), or, without backward, those of first_pass() and of kto_rows().
  void pass(Decoder& decoder, double scale, bool backward) const;

  bool needs_kl() const { return pairs_ && options_.loss_type == PreferenceLoss::kto; }
  struct FirstPass {
    double log_ratios = 0;  // of the mismatched answers, summed
    std::vector<PairLogProbabilities> reference;
  };
  FirstPass first_pass(Decoder& decoder, const PackedBatch& batch) const;
  /// kto_batch_loss.
  Loss loss(Decoder& decoder, const PackedBatch& batch, const FirstPass& first, double kl, double scale) const;

  /// Without gradients one pass is enough: what the loss of each row follows from once all have been seen.
  struct KtoRow {
    double log_ratio = 0, mismatched_log_ratio = 0;
    double log_probability = 0;  // the policy's
    bool good = false;
  };
  std::vector<KtoRow> kto_rows(Decoder& decoder, const PackedBatch& batch) const;
  KtoLoss loss(const KtoRow& row, double kl) const { return kto_loss(options_, row.log_ratio, kl, row.good); }

 private:
  std::vector<PairLogProbabilities> reference(Decoder& decoder, const PackedBatch& batch) const;

  bool pairs_ = false;
  PreferenceOptions options_;
  std::vector<PairLogProbabilities> reference_;
};

}  // namespace tune
