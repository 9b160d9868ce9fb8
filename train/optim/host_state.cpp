#include "train/optim/host_state.h"

#include <ATen/ATen.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <span>

#include "recipes/schema/error.h"
#include "train/kernels/cuda.h"

namespace tune {
namespace {

// Each tensor of a parameter begins where one of its own would, as kernels that load several values at once want it.
constexpr std::int64_t kAlignment = 256;

std::int64_t padded_bytes(const at::Tensor& tensor) {
  return (static_cast<std::int64_t>(tensor.nbytes()) + kAlignment - 1) / kAlignment * kAlignment;
}

// Tensors as `like` are, one behind the other in `bytes`.
std::vector<at::Tensor> parts_of(const at::Tensor& bytes, std::span<const at::Tensor> like) {
  std::vector<at::Tensor> parts;
  std::int64_t begin = 0;
  for (const at::Tensor& tensor : like) {
    const at::Tensor part = bytes.narrow(0, begin, static_cast<std::int64_t>(tensor.nbytes()));
    parts.push_back(part.view(tensor.scalar_type()).view(tensor.sizes()));
    begin += padded_bytes(tensor);
  }
  return parts;
}

void assign(const HostState::Tensors& state, std::span<const at::Tensor> tensors) {
  for (std::size_t k = 0; k < state.size(); ++k) *state[k] = tensors[k];
}

at::Tensor host_bytes(std::int64_t bytes, bool pinned) {
  return pinned && bytes > 0 ? cuda::pinned_bytes(bytes) : at::empty({bytes}, at::kByte);
}

}  // namespace

HostState::HostState(const at::Device& device)
    : device_(device),
      slots_{Slot{.bytes = {}, .holds = {}, .fetched = c10::Event(device.type())},
             Slot{.bytes = {}, .holds = {}, .fetched = c10::Event(device.type())}} {
  if (device.is_cuda()) side_ = c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device);
}

// Memory must not be given to others while a copy works in it.
HostState::~HostState() {
  try {
    settle();
  } catch (const c10::Error&) {  // whoever uses the device next says what happened to it
  }
}

void HostState::add(const Tensors& state) {
  std::vector<at::Tensor> made;
  std::int64_t bytes = 0;
  for (const at::Tensor* tensor : state) {
    made.push_back(*tensor);
    bytes += padded_bytes(*tensor);
  }
  std::int64_t& largest = largest_[kept_.size() % largest_.size()];
  largest = std::max(largest, bytes);
  Kept& kept = kept_.emplace_back();
  kept.bytes = host_bytes(bytes, device_.is_cuda());
  kept.tensors = parts_of(kept.bytes, made);
  for (std::size_t k = 0; k < made.size(); ++k) kept.tensors[k].copy_(made[k]);
  assign(state, kept.tensors);
}

void HostState::fetch(std::size_t i) {
  Slot& slot = slot_of(i);
  if (slot.holds == i) return;
  if (!slot.bytes.defined()) slot.bytes = make_buffer(largest_[i % largest_.size()]);
  slot.holds = i;
  const at::Tensor& host = kept_.at(i).bytes;
  const c10::OptionalStreamGuard side(side_);
  slot.bytes.narrow(0, 0, host.numel()).copy_(host, /*non_blocking=*/true);
  if (side_) slot.fetched.record(*side_);
}

void HostState::lend(std::size_t i, const Tensors& state) const {
  const Slot& slot = slot_of(i);
  TUNE_CHECK(slot.holds == i, "the state of parameter {} was not fetched", i);
  if (side_) slot.fetched.block(current_stream());
  assign(state, parts_of(slot.bytes, kept_[i].tensors));
}

// The slot is free then for what the stream of copies does next; the same parameter is fetched again.
void HostState::take_back(std::size_t i, const Tensors& state) {
  Slot& slot = slot_of(i);
  slot.holds.reset();
  side_waits_for_current();
  const at::Tensor& host = kept_[i].bytes;
  const c10::OptionalStreamGuard side(side_);
  host.copy_(slot.bytes.narrow(0, 0, host.numel()), /*non_blocking=*/true);
  assign(state, kept_[i].tensors);
}

void HostState::settle() {
  for (Slot& slot : slots_) slot.holds.reset();
  if (side_) side_->synchronize();
}

// What had the memory before may have work in the current stream that isn't done.
at::Tensor HostState::make_buffer(std::int64_t bytes) const {
  at::Tensor buffer = at::empty({bytes}, at::TensorOptions(at::kByte).device(device_));
  side_waits_for_current();
  return buffer;
}

c10::Stream HostState::current_stream() const { return c10::impl::VirtualGuardImpl(device_.type()).getStream(device_); }

void HostState::side_waits_for_current() const {
  if (!side_) return;
  c10::Event here(device_.type());
  here.record(current_stream());
  here.block(*side_);
}

}  // namespace tune
