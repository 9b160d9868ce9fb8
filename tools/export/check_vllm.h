#pragma once
#include <cstdint>
#include <filesystem>

#include "checkpoints/huggingface/model_config.h"
#include "recipes/schema/recipe.h"

namespace tune {

/// Whether vLLM loads the PEFT adapter in `folder` on a base of this configuration. Returns the least value for
/// --max-lora-rank with which it does. Error{Fault::recipe} that names all it refuses, and the remedies. The rules are
/// those of vLLM 0.33: vllm/lora/{peft_helper,lora_model,lora_weights,model_manager}.py, config/lora.py, and
/// embedding_modules of models/{llama,mistral,mixtral}.py.
std::int64_t check_vllm(const ModelConfig& config, const std::filesystem::path& folder);

/// The same, before a run, of the adapter that it will train.
void check_vllm(const ModelConfig& config, const AdapterOptions& adapter);

}  // namespace tune
