#include "train/objectives/objective.h"

namespace tune {

Loss Objective::loss(Decoder& decoder, const PackedBatch& batch, double scale, bool backward) const {
  if (!pairs_) return supervised_loss(decoder, batch, scale, backward);
  std::vector<PairLogProbabilities> reference;
  if (needs_reference() && reference_.empty())
    reference = pair_log_probabilities(decoder, batch, /*with_adapter=*/false);
  else if (needs_reference())
    for (const PreferencePair& pair : batch.pairs)
      reference.push_back(reference_.at(static_cast<std::size_t>(pair.number)));
  return preference_loss(decoder, batch, options_, reference, scale, backward);
}

void Objective::pass(Decoder& decoder, double scale, bool backward) const {
  if (needs_reference() && reference_.empty()) decoder.forward(one_document({0}), false);
  supervised_loss(decoder, one_document({0}), scale, backward);
}

}  // namespace tune
