#pragma once
#include <string>
#include <vector>

#include "checkpoints/huggingface/model_config.h"
#include "checkpoints/weights.h"

namespace tune {

/// Names and shapes of the weights that a model of this configuration has, embeddings first, then layer by layer. A
/// tied head isn't in the list. The dtype is left empty.
std::vector<TensorInfo> expected_tensors(const ModelConfig& config);

/// Error{Fault::data} at `where` that names every missing, surplus and misshapen tensor at once. A stored copy of a
/// tied head is no fault.
void check_tensors(const ModelConfig& config, const WeightSource& weights, const std::string& where);

}  // namespace tune
