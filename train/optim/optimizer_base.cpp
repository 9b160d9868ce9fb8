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

// What is offloaded is updated from the last one on, as a backward pass completes it: while that computes the next
// layer's gradients, the state of their last parameter is on its way already.
void OptimizerBase::update(std::size_t first, std::size_t end) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  if (!host_state_) {
    update_here(first, end);
    return;
  }
  for (std::size_t i = end; i-- > first;) {
    host_state_->fetch(i);
    host_state_->lend(i, state_of(i));
    if (i > 0) host_state_->fetch(i - 1);
    update_here(i, i + 1);
    host_state_->take_back(i, state_of(i));
  }
}

void OptimizerBase::update_here(std::size_t first, std::size_t end) {
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
  if (host_state_) host_state_->settle();
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

bool OptimizerBase::state_is_on_host() const {
  return host_state_ || parameters_.empty() || parameters_.front().master.is_cpu();
}

void OptimizerBase::restore(const Read& read, std::int64_t steps_done) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  if (host_state_) host_state_->settle();
  for (auto& [name, tensor] : named_state()) {
    at::Tensor host = at::empty(tensor.sizes(), tensor.scalar_type());
    read(name, {static_cast<std::byte*>(host.mutable_data_ptr()), host.nbytes()});
    at::Tensor(tensor).copy_(host);
  }
  steps_done_ = steps_done;
}

void OptimizerBase::offload(const HostState::Tensors& state) {
  if (!options_.offload_optimizer) return;
  if (!host_state_) host_state_.emplace(state.front()->device());
  host_state_->add(state);
}

at::Tensor zeros_for(const Parameter& parameter) {
  return at::zeros(parameter.master.sizes(), parameter.master.options().dtype(at::kFloat));
}

}  // namespace tune
