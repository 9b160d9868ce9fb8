#pragma once
#include <memory>

#include "checkpoints/huggingface/model_config.h"
#include "checkpoints/training/restore.h"
#include "checkpoints/weights.h"

namespace tune {

/// The weights of a model by their Hugging Face names, read from the fp32 masters of a checkpoint of full fine-tuning,
/// whoever wrote its parts; what was frozen (routers) from the base.
class CheckpointWeights : public WeightSource {
 public:
  CheckpointWeights(LoadedCheckpoint checkpoint, const ModelConfig& config, std::unique_ptr<WeightSource> base);
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  void read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const override;
  void read_rows(std::string_view name, std::int64_t first, std::int64_t count, Dtype dtype,
                 std::span<std::byte> destination) const override;

 private:
  LoadedCheckpoint checkpoint_;
  std::unique_ptr<WeightSource> base_;
  std::vector<TensorInfo> tensors_;
};

}  // namespace tune
