#pragma once
#include <cstdint>

#include "checkpoints/gguf/gguf.h"
#include "checkpoints/huggingface/model_config.h"
#include "checkpoints/weights.h"
#include "recipes/schema/recipe.h"

namespace tune {

/// The type in which a tensor (Hugging Face name; shape [rows, columns] or [n]) is kept in a GGUF file of `quant`:
/// llama.cpp's own choice, the mixtures of q4_k_m and q5_k_m included. Vectors and routers stay F32. Columns that a
/// block doesn't divide get the type that llama-quantize falls back to, in the end F16. has_importance: there is an
/// importance matrix, which changes the choice for q4_0 and q5_0.
GgufType gguf_type_for(const TensorInfo& tensor, Quant quant, const ModelConfig& config, bool has_importance);

/// general.file_type: llama.cpp's number for "mostly this type".
std::uint32_t gguf_file_type(Quant quant);

}  // namespace tune
