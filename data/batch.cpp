#include "data/batch.h"

#include <algorithm>
#include <numeric>

namespace tune {

std::int64_t PackedBatch::trained_tokens() const {
  auto count = std::count_if(labels.begin(), labels.end(), [](std::int64_t label) { return label != kNoLabel; });
  for (const PreferencePair& pair : pairs)
    count += std::ssize(pair.chosen_targets) + (pair.label ? 0 : std::ssize(pair.rejected_targets));
  return count;
}

PackedBatch one_document(const std::vector<std::int32_t>& ids) {
  PackedBatch batch{.ids = ids, .document_starts = {0, static_cast<std::int32_t>(ids.size())}};
  batch.labels.assign(ids.size(), kNoLabel);
  batch.positions.resize(ids.size());
  std::iota(batch.positions.begin(), batch.positions.end(), 0);
  return batch;
}

}  // namespace tune
