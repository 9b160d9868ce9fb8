#include "checkpoints/weights.h"

namespace tune {

std::int64_t element_count(const TensorInfo& info) {
  std::int64_t count = 1;
  for (const std::int64_t extent : info.shape) count *= extent;
  return count;
}

const TensorInfo* WeightSource::find(std::string_view name) const {
  for (const TensorInfo& info : tensors())
    if (info.name == name) return &info;
  return nullptr;
}

}  // namespace tune
