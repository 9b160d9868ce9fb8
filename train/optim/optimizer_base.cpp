#include "train/optim/optimizer_base.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include "checkpoints/training/slice_name.h"
#include "train/kernels/stochastic_round.h"
#include "train/model/random_stream.h"

namespace tune {
namespace {

constexpr std::uint64_t kOdd = 0x9E3779B97F4A7C15ull;  // 2^64 over the golden ratio: steps' keys lie far apart

}  // namespace

void OptimizerBase::step(double learning_rate) {
  begin_step(learning_rate);
  update(0, parameters_.size());
  zero_gradients();
}

void OptimizerBase::begin_step(double learning_rate) {
  host_.clear();
  ++steps_done_;
  learning_rate_ = learning_rate;
}

void OptimizerBase::update(std::size_t first, std::size_t end) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  if (first == end) return;
  if (options_.bf16_stochastic_round) {
    for (std::size_t i = first; i < end; ++i) update_rounded(i);
    return;
  }
  update_masters(first, end);
  for (std::size_t i = first; i < end; ++i)
    if (Parameter& parameter = parameters_[i]; !parameter.value.is_same(parameter.master))
      parameter.value.copy_(parameter.master);
}

// The parameter has a master while it is updated. Slices round as the whole tensor would.
void OptimizerBase::update_rounded(std::size_t i) {
  Parameter& parameter = parameters_[i];
  parameter.master = parameter.value.to(at::kFloat);
  update_masters(i, i + 1);
  const SliceName slice = parse_slice_name(parameter.name);
  const std::uint64_t key = stream_of(slice.tensor, options_.seed) + static_cast<std::uint64_t>(steps_done_) * kOdd;
  stochastic_round_(parameter.value, parameter.master, key, slice.first.value_or(0));
  parameter.master = parameter.value;
}

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

at::Tensor zeros_for(const Parameter& parameter) {
  return at::zeros(parameter.master.sizes(), parameter.master.options().dtype(at::kFloat));
}

}  // namespace tune
