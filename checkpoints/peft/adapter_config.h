#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace tune {

inline constexpr const char* kAdapterConfigFile = "adapter_config.json";
inline constexpr const char* kAdapterWeightsFile = "adapter_model.safetensors";

/// A LoRA adapter as PEFT describes it: each target computes W x + scale * B A x; with DoRA, each row of that times m
/// over the row's length.
struct AdapterConfig {
  std::string base_model_name_or_path;
  std::int64_t r = 16;
  double lora_alpha = 32;
  double lora_dropout = 0.0;
  std::vector<std::string> target_modules;  // names such as q_proj, or the one word "all-linear"
  bool use_rslora = false;
  bool use_dora = false;
  std::map<std::string, std::int64_t> rank_pattern;  // by module, as recipes/schema/lora_shape.h reads it
  std::map<std::string, double> alpha_pattern;
  std::vector<std::string> modules_to_save;           // of embed_tokens and lm_head: stored whole
  std::vector<std::int64_t> trainable_token_indices;  // whose rows of embed_tokens are stored

  /// Of "model.layers.0.self_attn.q_proj". scale: alpha / rank; with rsLoRA alpha / sqrt(rank).
  std::int64_t rank_of(std::string_view module) const;
  double scale_of(std::string_view module) const;
};

/// Reads `folder`/adapter_config.json. Error{Fault::data}: missing, malformed, or an adapter that computes something
/// else (other modules_to_save, biases, an initialisation that changed the base, …; the keys of PEFT 0.21); all reasons
/// at once. Keys that only steer training or loading are passed over.
AdapterConfig read_adapter_config(const std::filesystem::path& folder);

/// The text of adapter_config.json: the keys that every PEFT since 0.5 and vLLM read.
std::string write_adapter_config(const AdapterConfig& config);

}  // namespace tune
