#pragma once
#include <vector>

#include "train/plan/plan.h"

namespace tune {

/// Bytes a token and layer that the backward pass needs of the forward pass: what LayerTape (train/model/layer.h)
/// holds.
std::int64_t tape_bytes_per_token(const ModelConfig& config, const AdapterOptions& adapter, std::int64_t element_bytes);

/// What lies in memory at the moment of the peak, which is the first layer to go backward (the last one of the model).
std::vector<MemoryItem> memory_items(const Recipe& recipe, const ModelConfig& config, const Plan& plan);

}  // namespace tune
