#pragma once
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>
#include <cstdint>

namespace tune {

struct Rank;

/// c10d's collectives: Gloo over TCP for tensors on the CPU, NCCL for those on a GPU. `timeout` is the last resort; the
/// watch (train/parallel/watch.h) ends a run that hangs before it.
c10::intrusive_ptr<c10d::Backend> make_gloo(const c10::intrusive_ptr<c10d::Store>& store, const Rank& rank,
                                            std::chrono::milliseconds timeout);

/// For the current CUDA device. Error{Fault::recipe} where this program was built without NCCL.
c10::intrusive_ptr<c10d::Backend> make_nccl(const c10::intrusive_ptr<c10d::Store>& store, const Rank& rank,
                                            std::chrono::milliseconds timeout);

/// In place: `mine` is this rank's slice of `whole`. One collective of the whole; LibTorch 2.15 has renamed both, and
/// deprecates the older names.
template <typename Backend>
c10::intrusive_ptr<c10d::Work> gather_slices(Backend& backend, at::Tensor& whole, at::Tensor& mine) {
  if constexpr (requires { backend.all_gather_single(whole, mine); })
    return backend.all_gather_single(whole, mine);
  else
    return backend._allgather_base(whole, mine);
}

template <typename Backend>
c10::intrusive_ptr<c10d::Work> sum_slices(Backend& backend, at::Tensor& whole, at::Tensor& mine) {
  if constexpr (requires { backend.reduce_scatter_single(mine, whole); })
    return backend.reduce_scatter_single(mine, whole);
  else
    return backend._reduce_scatter_base(mine, whole);
}

}  // namespace tune
