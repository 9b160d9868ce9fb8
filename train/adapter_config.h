#pragma once
#include <string>

#include "checkpoints/huggingface/model_config.h"
#include "checkpoints/peft/adapter_config.h"
#include "train/model/decoder.h"

namespace tune {

/// What PEFT has to know of the adapter that a run leaves.
AdapterConfig adapter_config(const std::string& base_model, const DecoderOptions& options, const ModelConfig& config);

}  // namespace tune
