#pragma once
#include <memory>

#include "checkpoints/weights.h"
#include "train/model/decoder.h"

namespace tune {

/// The weights of a fully fine-tuned decoder by their Hugging Face names, read from its fp32 masters; what was frozen
/// (routers) from the base.
class TunedWeights : public WeightSource {
 public:
  TunedWeights(std::unique_ptr<Decoder> decoder, std::unique_ptr<WeightSource> base);
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  void read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const override;
  void read_rows(std::string_view name, std::int64_t first, std::int64_t count, Dtype dtype,
                 std::span<std::byte> destination) const override;

 private:
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<WeightSource> base_;
  std::vector<TensorInfo> tensors_;
};

}  // namespace tune
