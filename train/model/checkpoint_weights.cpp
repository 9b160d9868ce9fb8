#include "train/model/checkpoint_weights.h"

#include <ATen/ATen.h>

#include <cstring>

#include "checkpoints/huggingface/model_tensors.h"
#include "checkpoints/training/slice_name.h"
#include "recipes/schema/error.h"
#include "train/model/dtype.h"

namespace tune {

CheckpointWeights::CheckpointWeights(LoadedCheckpoint checkpoint, const ModelConfig& config,
                                     std::unique_ptr<WeightSource> base)
    : checkpoint_(std::move(checkpoint)), base_(std::move(base)) {
  for (const TensorInfo& expected : expected_tensors(config)) {
    tensors_.push_back(*base_->find(expected.name));
    if (const std::uint64_t bytes = checkpoint_.bytes(expected.name); bytes > 0)
      tensors_.back().dtype = bytes == 2 * static_cast<std::uint64_t>(element_count(expected)) ? "BF16" : "F32";
  }
}

void CheckpointWeights::read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const {
  const TensorInfo* info = find(name);
  TUNE_CHECK(info != nullptr, "no tensor is called {}", name);
  read_rows(name, 0, info->shape[0], dtype, destination);
}

void CheckpointWeights::read_rows(std::string_view name, std::int64_t first, std::int64_t count, Dtype dtype,
                                  std::span<std::byte> destination) const {
  if (checkpoint_.bytes(name) == 0) return base_->read_rows(name, first, count, dtype, destination);
  const TensorInfo* info = find(name);
  const std::int64_t columns = element_count(*info) / info->shape[0];
  const at::Tensor values = at::empty({count * columns}, info->dtype == "BF16" ? at::kBFloat16 : at::kFloat);
  checkpoint_.read(slice_name(name, first * columns),
                   {static_cast<std::byte*>(values.mutable_data_ptr()), values.nbytes()});
  const at::Tensor converted = values.to(scalar_type(dtype));
  TUNE_CHECK(converted.nbytes() == destination.size(), "{} bytes for {} of {}", destination.size(), name,
             converted.nbytes());
  std::memcpy(destination.data(), converted.const_data_ptr(), converted.nbytes());
}

}  // namespace tune
