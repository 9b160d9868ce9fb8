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

}  // namespace tune
