#pragma once
#include <filesystem>
#include <memory>

#include "checkpoints/weights.h"

namespace tune {

/// Opens the weights of a folder in Hugging Face layout: model.safetensors, or shards named by
/// model.safetensors.index.json. Rotary tables that old files store are left out of tensors(), and so are tensors that
/// the index doesn't name.
/// Error{Fault::data}: no weights, pickles only (with the way to convert), a shard or a tensor missing, a tensor stored
/// twice, an index that points out of the folder.
std::unique_ptr<WeightSource> open_huggingface_weights(const std::filesystem::path& folder);

}  // namespace tune
