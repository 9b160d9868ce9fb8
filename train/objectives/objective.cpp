#include "train/objectives/objective.h"

namespace tune {

// Computed now, or once before the first step.
std::vector<PairLogProbabilities> Objective::reference(Decoder& decoder, const PackedBatch& batch) const {
  if (!needs_reference()) return {};
  if (reference_.empty()) return pair_log_probabilities(decoder, batch, /*with_adapter=*/false);
  std::vector<PairLogProbabilities> reference;
  for (const PreferencePair& pair : batch.pairs)
    reference.push_back(reference_.at(static_cast<std::size_t>(pair.number)));
  return reference;
}

Loss Objective::loss(Decoder& decoder, const PackedBatch& batch, double scale, bool backward) const {
  if (!pairs_) return supervised_loss(decoder, batch, scale, backward);
  return preference_loss(decoder, batch, options_, reference(decoder, batch), scale, backward);
}

void Objective::pass(Decoder& decoder, double scale, bool backward) const {
  const bool known = needs_kl() && backward;  // since the first pass
  if (needs_reference() && reference_.empty() && !known) decoder.forward(one_document({0}), false);
  supervised_loss(decoder, one_document({0}), scale, backward);
}

Objective::FirstPass Objective::first_pass(Decoder& decoder, const PackedBatch& batch) const {
  FirstPass first{.reference = reference(decoder, batch)};
  first.log_ratios = mismatched_log_ratios(decoder, batch, first.reference);
  return first;
}

Loss Objective::loss(Decoder& decoder, const PackedBatch& batch, const FirstPass& first, double kl,
                     double scale) const {
  return kto_batch_loss(decoder, batch, options_, first.reference, kl, scale);
}

std::vector<Objective::KtoRow> Objective::kto_rows(Decoder& decoder, const PackedBatch& batch) const {
  const std::vector<PairLogProbabilities> base = reference(decoder, batch),
                                          policy = pair_log_probabilities(decoder, batch, /*with_adapter=*/true);
  std::vector<KtoRow> rows;
  for (std::size_t i = 0; i < policy.size(); ++i)
    rows.push_back({policy[i].chosen - base[i].chosen, policy[i].rejected - base[i].rejected, policy[i].chosen,
                    batch.pairs[i].label.value()});
  return rows;
}

}  // namespace tune
