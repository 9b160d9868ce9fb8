#include "data/batch.h"

#include <algorithm>

namespace tune {

std::int64_t PackedBatch::trained_tokens() const {
  return std::count_if(labels.begin(), labels.end(), [](std::int64_t label) { return label != kNoLabel; });
}

}  // namespace tune
