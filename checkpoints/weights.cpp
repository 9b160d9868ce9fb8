#include "checkpoints/weights.h"

#include <cstring>

#include "checkpoints/huggingface/convert.h"
#include "recipes/schema/error.h"

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

// For sources that can't read a part: costs the memory of the whole tensor.
void WeightSource::read_rows(std::string_view name, std::int64_t first, std::int64_t count, Dtype dtype,
                             std::span<std::byte> destination) const {
  const TensorInfo* info = find(name);
  TUNE_CHECK(info != nullptr && !info->shape.empty() && first >= 0 && count >= 0 && first + count <= info->shape[0],
             "rows {} to {} of {}", first, first + count, name);
  const std::size_t row_bytes = static_cast<std::size_t>(element_count(*info) / info->shape[0]) * element_bytes(dtype);
  TUNE_CHECK(destination.size() == static_cast<std::size_t>(count) * row_bytes, "{} bytes for {} rows of {}",
             destination.size(), count, name);
  std::vector<std::byte> whole(static_cast<std::size_t>(info->shape[0]) * row_bytes);
  read(name, dtype, whole);
  if (!destination.empty())
    std::memcpy(destination.data(), whole.data() + static_cast<std::size_t>(first) * row_bytes, destination.size());
}

}  // namespace tune
