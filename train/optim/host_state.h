#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace tune {

/// An optimizer's state in the host's memory (train.offload_optimizer), pinned where the parameters are on CUDA. For
/// its update a parameter's state is copied to the device and then back, on a stream of its own, so that the next one's
/// is on its way meanwhile. The device holds two at a time, in buffers that are made once. On the CPU all of it is the
/// same, but that copies are waited for. For one thread.
class HostState {
 public:
  using Tensors = std::vector<at::Tensor*>;  // an optimizer's own, of one parameter

  explicit HostState(const at::Device& device);
  ~HostState();  // waits
  HostState(const HostState&) = delete;
  HostState& operator=(const HostState&) = delete;

  /// Moves the next parameter's state to the host; `state` are the tensors there from now on. Before anything else.
  void add(const Tensors& state);

  /// Begins to copy the state of parameter i to the device, unless that was begun before.
  void fetch(std::size_t i);

  /// After fetch(i): `state` are the copies on the device, whole for what comes next in the current stream ...
  void lend(std::size_t i, const Tensors& state) const;
  /// ... and those on the host again, which what the current stream has done to the copies is on its way to.
  void take_back(std::size_t i, const Tensors& state);

  /// Waits for what is on its way. What lies on the host may be read and written until the next fetch().
  void settle();

 private:
  struct Kept {
    at::Tensor bytes;                 // on the host
    std::vector<at::Tensor> tensors;  // its parts
  };
  struct Slot {
    at::Tensor bytes;  // on the device
    std::optional<std::size_t> holds;
    c10::Event fetched;
  };

  Slot& slot_of(std::size_t i) { return slots_[i % slots_.size()]; }
  const Slot& slot_of(std::size_t i) const { return slots_[i % slots_.size()]; }
  at::Tensor make_buffer(std::int64_t bytes) const;
  c10::Stream current_stream() const;
  void side_waits_for_current() const;

  const at::Device device_;
  std::optional<c10::Stream> side_;  // of the copies; none on the CPU
  std::vector<Kept> kept_;
  std::array<std::int64_t, 2> largest_{};  // bytes, of those whose slot it is
  std::array<Slot, 2> slots_;
};

}  // namespace tune
