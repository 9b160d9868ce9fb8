#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "data/batch.h"
#include "train/model/decoder.h"

namespace tune {

/// What a preference objective sees of the pairs of a batch, or of its single answers, summed over them.
struct PreferenceSums {
  double pairs = 0;                               // or single answers
  double chosen = 0, rejected = 0;                // answers of either kind: of pairs as many as pairs
  double chosen_reward = 0, rejected_reward = 0;  // PairLoss, train/objectives/preference.h; KtoLoss, kto.h
  double right = 0;                               // pairs whose chosen answer has the higher reward
  double chosen_log_probability = 0, rejected_log_probability = 0;

  void add(const PreferenceSums& more);
};

/// Sums, not means: any split of a batch gives the same gradient.
struct Loss {
  double sum = 0;  // of negative log-likelihoods over trained tokens, natural log; of pairs' or answers' losses
  std::int64_t trained_tokens = 0;
  std::optional<PreferenceSums> preference;  // where the batch is made of pairs or single answers
  std::optional<RouterLoad> router_load;     // of models with experts
};

/// Next-token loss over the labelled positions of `batch`. With `backward`, adds the gradients of scale * sum to those
/// of decoder.trained(), and those of the routers' auxiliary loss, with the weight that options().router_aux_loss_coef
/// gives it beside the mean of these tokens. Logits exist for labelled positions only, a chunk at a time.
Loss supervised_loss(Decoder& decoder, const PackedBatch& batch, double scale, bool backward);

/// False where this loss ends the run: it must not change anything, so there is no backward pass. But ranks that keep
/// the weights together pass as often as each other.
bool backward_follows(const Decoder& decoder, double loss);

/// Logits [rows, vocab] fp32 of the given rows of the batch, for judges and tests.
at::Tensor logits(Decoder& decoder, const PackedBatch& batch, const std::vector<std::int64_t>& rows);

}  // namespace tune
