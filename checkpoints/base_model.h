#pragma once
#include <filesystem>
#include <memory>

#include "checkpoints/huggingface/model_config.h"
#include "checkpoints/weights.h"

namespace tune {

/// A model to start from: a folder in Hugging Face layout or one .gguf file.
struct BaseModel {
  std::filesystem::path path;
  bool is_gguf = false;
  ModelConfig config;
  std::unique_ptr<WeightSource> weights;
};

/// Error{Fault::data}: nothing there, a folder without config.json, a pickle, ONNX, a damaged file, with the way out;
/// or tensors that don't fit the configuration, every missing, surplus and misshapen one named (check_tensors).
BaseModel open_base_model(const std::filesystem::path& path);

}  // namespace tune
