#pragma once
#include <ATen/ATen.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "checkpoints/huggingface/model_tensors.h"
#include "checkpoints/weights.h"
#include "train/model/dtype.h"

namespace tune {

/// A model of any size whose weights are cut out of one block of random numbers (7 B of them need no 7 B
/// draws); its odd length keeps rows from repeating.
class RandomModel : public WeightSource {
 public:
  RandomModel(const ModelConfig& config, double deviation)
      : pool_(at::randn({(1 << 22) + 17}) * deviation), infos_(expected_tensors(config)) {}

  const std::vector<TensorInfo>& tensors() const override { return infos_; }

  void read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const override {
    at::Tensor from = pool_;
    for (const TensorInfo& info : infos_)
      if (info.name == name && info.shape.size() == 1) from = pool_ + 1.0;  // a norm's
    from = from.to(scalar_type(dtype)).contiguous();
    const auto* bytes = static_cast<const std::byte*>(from.const_data_ptr());
    const std::size_t element = from.element_size(), whole = from.nbytes();
    std::size_t at = std::hash<std::string_view>{}(name) % static_cast<std::size_t>(from.numel()) * element;
    for (std::size_t done = 0; done < destination.size(); at = 0) {
      const std::size_t count = std::min(whole - at, destination.size() - done);
      std::memcpy(destination.data() + done, bytes + at, count);
      done += count;
    }
  }

 private:
  at::Tensor pool_;
  std::vector<TensorInfo> infos_;
};

}  // namespace tune
