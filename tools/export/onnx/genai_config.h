#pragma once
#include <filesystem>
#include <string>

#include "checkpoints/huggingface/model_config.h"

namespace tune {

/// genai_config.json, by which onnxruntime-genai runs `model_file`. End and padding tokens are those of folder's
/// generation_config.json and config.json where they say some, else the model's. Greedy unless the caller says
/// otherwise.
std::string genai_config(const ModelConfig& config, const std::string& model_file, const std::filesystem::path& folder);

}  // namespace tune
