#pragma once
#include <memory>

#include "checkpoints/gguf/gguf.h"
#include "checkpoints/huggingface/model_config.h"
#include "checkpoints/weights.h"

namespace tune {

/// Error{Fault::data} for other architectures than llama, for experts, for scaled rope, and for sizes that don't fit.
ModelConfig read_gguf_model_config(const GgufFile& file);

/// The weights under their Hugging Face names, dequantised as they are read, rows of q and k in Hugging Face's order.
/// Error{Fault::data} for tensors that no llama has, and for rope factors other than one.
std::unique_ptr<WeightSource> open_gguf_weights(GgufFile file);

}  // namespace tune
