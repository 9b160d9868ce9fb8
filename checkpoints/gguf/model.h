#pragma once
#include <filesystem>
#include <memory>

#include "checkpoints/gguf/gguf.h"
#include "checkpoints/huggingface/model_config.h"
#include "checkpoints/weights.h"

namespace tune {

/// Error{Fault::data} for other architectures than llama, experts, scaled rope.
ModelConfig read_gguf_config(const GgufFile& file);

/// The weights under their Hugging Face names, dequantised as they are read, rows of q and k in Hugging Face's order.
/// Error{Fault::data} for tensors that no llama has.
std::unique_ptr<WeightSource> open_gguf_weights(const std::filesystem::path& path);

}  // namespace tune
