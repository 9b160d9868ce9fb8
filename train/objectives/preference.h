#pragma once
#include <cstdint>
#include <span>

#include "data/batch.h"
#include "recipes/schema/recipe.h"
#include "train/objectives/supervised.h"

namespace tune {

/// Sums of the logarithms of an answer's trained tokens' probabilities, natural log.
struct PairLogProbabilities {
  double chosen = 0, rejected = 0;
};

/// What the model, as it is, gives the pairs of `batch`, in their order. with_adapter false: what its base gives them.
std::vector<PairLogProbabilities> pair_log_probabilities(Decoder& decoder, const PackedBatch& batch, bool with_adapter);

/// Whether the objective compares with a reference model: orpo and simpo don't.
bool needs_reference(PreferenceLoss loss);

/// Loss of one pair and its derivatives by the policy's two sums. Tokens: trained ones of either answer.
///   sigmoid  DPO, Rafailov et al. 2023, equation 7; label_smoothing as in their reference code (cDPO)
///   ipo      Azar et al. 2023, equation 17, of means over tokens, as its authors and TRL have it
///   hinge    SLiC, Zhao et al. 2023, of DPO's margin
///   orpo     Hong et al. 2024, equations 6 and 7, the odds of means; the likelihood that of the chosen answer's mean
///   simpo    Meng et al. 2024, equation 6, with gamma = simpo_gamma
struct PairLoss {
  double loss = 0, by_chosen = 0, by_rejected = 0;
  double chosen_reward = 0,
         rejected_reward = 0;  // beta times the (mean) log-ratio, or log-probability without reference
};
PairLoss pair_loss(const PreferenceOptions& options, const PairLogProbabilities& policy,
                   const PairLogProbabilities& reference, std::int64_t chosen_tokens, std::int64_t rejected_tokens);

/// Loss::sum over the pairs of `batch`, and with `backward` the gradients of scale * sum. reference: one a pair, unused
/// where none is needed.
Loss preference_loss(Decoder& decoder, const PackedBatch& batch, const PreferenceOptions& options,
                     std::span<const PairLogProbabilities> reference, double scale, bool backward);

}  // namespace tune
