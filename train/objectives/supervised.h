#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "data/batch.h"
#include "train/model/decoder.h"

namespace tune {

/// Sums, not means: any split of a batch gives the same gradient.
struct Loss {
  double sum = 0;  // of negative log-likelihoods over trained tokens, natural log
  std::int64_t trained_tokens = 0;
  std::optional<RouterLoad> router_load;  // of models with experts
};

/// Next-token loss over the labelled positions of `batch`. With `backward`, adds the gradients of scale * sum to those
/// of decoder.trained(), and those of the routers' auxiliary loss, with the weight that options().router_aux_loss_coef
/// gives it beside the mean of these tokens. Logits exist for labelled positions only, a chunk at a time.
Loss supervised_loss(Decoder& decoder, const PackedBatch& batch, double scale, bool backward);

/// Logits [rows, vocab] fp32 of the given rows of the batch, for judges and tests.
at::Tensor logits(Decoder& decoder, const PackedBatch& batch, const std::vector<std::int64_t>& rows);

}  // namespace tune
