#include "train/optim/optimizer_base.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

namespace tune {

void OptimizerBase::zero_gradients() {
  host_.clear();
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  for (Parameter& parameter : parameters_) parameter.gradient.zero_();
}

std::vector<NamedBytes> OptimizerBase::state() {
  host_.clear();
  std::vector<NamedBytes> result;
  for (const auto& [name, tensor] : named_state()) {
    host_.push_back(tensor.cpu().contiguous());
    const at::Tensor& host = host_.back();
    result.push_back({.name = name,
                      .dtype = host.scalar_type() == at::kByte ? "U8" : "F32",
                      .shape = host.sizes().vec(),
                      .bytes = {static_cast<const std::byte*>(host.const_data_ptr()), host.nbytes()}});
  }
  return result;
}

void OptimizerBase::restore(const Read& read, std::int64_t steps_done) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  for (auto& [name, tensor] : named_state()) {
    at::Tensor host = at::empty(tensor.sizes(), tensor.scalar_type());
    read(name, {static_cast<std::byte*>(host.mutable_data_ptr()), host.nbytes()});
    at::Tensor(tensor).copy_(host);
  }
  steps_done_ = steps_done;
}

void OptimizerBase::publish_masters() {
  for (Parameter& parameter : parameters_)
    if (!parameter.value.is_same(parameter.master)) parameter.value.copy_(parameter.master);
  zero_gradients();
}

}  // namespace tune
