#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace tune {

inline constexpr const char* kAdapterConfigFile = "adapter_config.json";
inline constexpr const char* kAdapterWeightsFile = "adapter_model.safetensors";

/// A LoRA adapter as PEFT describes it: each target computes W x + scale() * B A x.
struct AdapterConfig {
  std::string base_model_name_or_path;
  std::int64_t r = 16;
  double lora_alpha = 32;
  double lora_dropout = 0.0;
  std::vector<std::string> target_modules;  // names such as q_proj, or the one word "all-linear"
  bool use_rslora = false;

  /// lora_alpha / r; with rsLoRA lora_alpha / sqrt(r).
  double scale() const;
};

/// Reads `folder`/adapter_config.json. Error{Fault::data}: missing, malformed, or an adapter that computes something
/// else (DoRA, modules_to_save, biases, ranks that differ from layer to layer, an initialisation that changed the base,
/// …; the keys of PEFT 0.21); all reasons at once. Keys that only steer training or loading are passed over.
AdapterConfig read_adapter_config(const std::filesystem::path& folder);

/// The text of adapter_config.json: the keys that every PEFT since 0.5 and vLLM read.
std::string write_adapter_config(const AdapterConfig& config);

}  // namespace tune
