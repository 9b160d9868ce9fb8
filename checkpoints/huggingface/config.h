#pragma once
#include <cstdint>
#include <filesystem>
#include <string>

#include "checkpoints/huggingface/model_config.h"
#include "recipes/schema/recipe.h"

namespace tune {

/// Reads config.json of a folder in Hugging Face layout, as transformers 4 or 5 spells it; keys that are missing have
/// the value of transformers' class; the end tokens of generation_config.json are added. Whatever would make the model
/// compute something else than our decoder does (scaled rope, biases, another activation, quantised weights) is
/// refused. Error{Fault::data} names file, line and what may be.
ModelConfig read_model_config(const std::filesystem::path& folder);

/// config.json for a model that came without one, in transformers 4's spelling, which everybody reads.
std::string write_model_config(const ModelConfig& config, Dtype dtype);

/// An existing config.json for weights that are stored in another dtype: every other key as it was.
std::string patch_model_config(const std::string& text, Dtype dtype);

/// An existing config.json for another number of layers: every other key as it was.
std::string patch_num_hidden_layers(const std::string& text, std::int64_t num_hidden_layers);

}  // namespace tune
