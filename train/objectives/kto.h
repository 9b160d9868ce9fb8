#pragma once
#include <span>
#include <vector>

#include "data/batch.h"
#include "recipes/schema/recipe.h"
#include "train/objectives/preference.h"
#include "train/objectives/supervised.h"

namespace tune {

/// KTO, Ethayarajh et al. 2024, equations 7 and 8, of one answer and its derivative by the policy's log-probability.
///   log_ratio  of the answer: log-probability of the policy less that of the reference
///   kl         how far the policy is from the reference, kl_estimate(): a constant, as far as gradients go
struct KtoLoss {
  double loss = 0, by_answer = 0;
  double reward = 0;  // beta times log_ratio
};
KtoLoss kto_loss(const PreferenceOptions& options, double log_ratio, double kl, bool good);

/// Of the log-ratios of mismatched answers, each another row's to the prompt of a row, summed over `rows` rows. Never
/// less than 0.
double kl_estimate(double sum, double rows);

/// Their sum over the rows of `batch`, from a forward pass of the prompts with those answers alone, without a tape.
double mismatched_log_ratios(Decoder& decoder, const PackedBatch& batch,
                             std::span<const PairLogProbabilities> reference);

/// Counts an answer among the good or the bad ones.
void add_answer(PreferenceSums& sums, const KtoLoss& loss, double log_probability, bool good);

/// Loss::sum over the rows of `batch`, and the gradients of scale * sum. The pass is over prompts and their own answers
/// alone. reference: one a row.
Loss kto_batch_loss(Decoder& decoder, const PackedBatch& batch, const PreferenceOptions& options,
                    std::span<const PairLogProbabilities> reference, double kl, double scale);

}  // namespace tune
