#pragma once
#include <vector>

#include "train/plan/plan.h"

namespace tune {

/// What train.offload_optimizer keeps of the optimizer's state on the device: the buffers of train/optim/host_state.h.
/// ranks: that share the trained weights; where there are several, at most.
std::int64_t offload_buffer_bytes(const Recipe& recipe, const ModelConfig& config, std::int64_t ranks);

/// What it keeps in the host's memory beside a GPU, of each rank. Nothing where the program has no other memory.
std::vector<MemoryItem> host_memory_items(const Recipe& recipe, const ModelConfig& config, std::int64_t ranks);

/// Error{Fault::memory} where what the ranks of this host keep there is more than `available` bytes: pinning takes them
/// at once.
void require_host_memory(const Plan& plan, OptimizerType optim, std::int64_t ranks_of_host, std::int64_t available);

}  // namespace tune
