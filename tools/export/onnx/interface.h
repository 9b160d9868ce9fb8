#pragma once
#include <string>

#include "checkpoints/huggingface/model_config.h"
#include "tools/export/onnx/builder.h"

namespace tune {

/// Inputs and outputs that both flavours have; position_ids only where `with_positions`.
void declare_decoder(const ModelConfig& config, OnnxType computes_in, bool with_positions, OnnxGraphBuilder& graph);

/// "past_key_values.3.key", "present.3.value".
std::string past_name(std::int64_t layer, const char* what);
std::string present_name(std::int64_t layer, const char* what);

}  // namespace tune
