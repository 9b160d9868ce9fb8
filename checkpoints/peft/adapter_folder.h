#pragma once
#include <filesystem>
#include <span>

#include "checkpoints/peft/adapter_config.h"
#include "checkpoints/safetensors/reader.h"
#include "checkpoints/training/state.h"
#include "checkpoints/weights.h"

namespace tune {

/// A PEFT adapter on disk, by PEFT's keys ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight").
class AdapterFolder : public WeightSource {
 public:
  /// Error{Fault::data} when the folder is no adapter, is one that we can't use, or holds a pickle.
  explicit AdapterFolder(const std::filesystem::path& folder);

  const AdapterConfig& config() const { return config_; }
  const std::filesystem::path& path() const { return file_.path(); }  // of the weights
  const std::vector<TensorInfo>& tensors() const override { return file_.tensors(); }
  void read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const override;
  void read_rows(std::string_view name, std::int64_t first, std::int64_t count, Dtype dtype,
                 std::span<std::byte> destination) const override;

 private:
  AdapterConfig config_;
  SafetensorsFile file_;
};

/// What a person may call an adapter: its folder, or the adapter_model.safetensors in it. Returns the folder.
/// Error{Fault::data} for any other file, a GGUF adapter among them.
std::filesystem::path adapter_folder(const std::filesystem::path& path);

/// Writes adapter_model.safetensors and adapter_config.json into a folder that exists (an AtomicFolder's path()).
/// Error{Fault::running} when the disk refuses.
void write_adapter(const std::filesystem::path& folder, const AdapterConfig& config,
                   std::span<const NamedBytes> tensors);

}  // namespace tune
