#pragma once
#include <vector>

#include "train/plan/plan.h"

namespace tune {

/// What train.offload_optimizer keeps of the optimizer's state on the device: the buffers of train/optim/host_state.h.
/// state_ranks: that share the trained weights; where there are several, at most.
std::int64_t offload_buffer_bytes(const Recipe& recipe, const ModelConfig& config, std::int64_t state_ranks);

/// What it keeps in the host's memory beside a GPU, of each rank. Nothing where the program has no other memory.
std::vector<MemoryItem> host_memory_items(const Recipe& recipe, const ModelConfig& config, std::int64_t ranks);

}  // namespace tune
