#include "train/model/tuned_weights.h"

#include <ATen/ATen.h>

#include <cstring>
#include <set>

#include "checkpoints/huggingface/model_tensors.h"
#include "recipes/schema/error.h"
#include "train/model/dtype.h"

namespace tune {

TunedWeights::TunedWeights(std::unique_ptr<Decoder> decoder, std::unique_ptr<WeightSource> base)
    : decoder_(std::move(decoder)), base_(std::move(base)) {
  std::set<std::string> trained;
  for (const Parameter& parameter : decoder_->trained()) {
    trained.insert(parameter.name);
    const char* dtype = parameter.master.scalar_type() == at::kFloat ? "F32" : "BF16";
    tensors_.push_back({.name = parameter.name, .dtype = dtype, .shape = parameter.master.sizes().vec()});
  }
  for (const TensorInfo& expected : expected_tensors(decoder_->config()))
    if (trained.count(expected.name) == 0) tensors_.push_back(*base_->find(expected.name));
}

void TunedWeights::read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const {
  const TensorInfo* info = find(name);
  TUNE_CHECK(info != nullptr, "no tensor is called {}", name);
  read_rows(name, 0, info->shape[0], dtype, destination);
}

void TunedWeights::read_rows(std::string_view name, std::int64_t first, std::int64_t count, Dtype dtype,
                             std::span<std::byte> destination) const {
  for (const Parameter& parameter : decoder_->trained()) {
    if (parameter.name != name) continue;
    const at::Tensor host = parameter.master.narrow(0, first, count).cpu().to(scalar_type(dtype)).contiguous();
    TUNE_CHECK(host.nbytes() == destination.size(), "{} bytes for {} of {}", destination.size(), parameter.name,
               host.nbytes());
    std::memcpy(destination.data(), host.const_data_ptr(), host.nbytes());
    return;
  }
  base_->read_rows(name, first, count, dtype, destination);
}

}  // namespace tune
