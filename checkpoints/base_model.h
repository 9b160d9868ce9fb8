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

/// Error{Fault::data}: nothing there, a folder without config.json, a pickle, a damaged file; with the way out. Names
/// and shapes of the tensors are not compared with the configuration: check_tensors() does that.
BaseModel open_base_model(const std::filesystem::path& path);

}  // namespace tune
