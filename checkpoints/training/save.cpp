#include "checkpoints/training/save.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <unordered_map>

#include "checkpoints/files/atomic_folder.h"
#include "checkpoints/files/file_system.h"
#include "checkpoints/huggingface/shards.h"
#include "checkpoints/peft/adapter_folder.h"
#include "checkpoints/safetensors/named_bytes.h"
#include "checkpoints/training/manifest.h"
#include "checkpoints/training/retention.h"
#include "recipes/schema/error.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kSmallFilesBytes = 1 << 20;  // headers and JSON

void write_text(const fs::path& path, const std::string& text) {
  OutputFile file(path);
  file.write(text);
  file.close();
}

void write_model(const fs::path& folder, const std::vector<NamedBytes>& weights) {
  std::vector<TensorInfo> infos;
  std::unordered_map<std::string, const NamedBytes*> by_name;
  for (const NamedBytes& tensor : weights) {
    infos.push_back({tensor.name, tensor.dtype, tensor.shape});
    by_name.emplace(tensor.name, &tensor);
  }
  const std::vector<Shard> shards = plan_shards(infos);
  for (const Shard& shard : shards) {
    std::vector<NamedBytes> part;
    for (const TensorInfo& info : shard.tensors) part.push_back(*by_name.at(info.name));
    write_safetensors(folder / shard.file, part);
  }
  if (shards.size() > 1) write_text(folder / kShardIndexFile, format_shard_index(shards));
}

std::uint64_t checkpoint_bytes(const TrainingState& state) {
  std::uint64_t bytes = kSmallFilesBytes;
  for (const auto* tensors : {&state.weights, &state.optimizer})
    for (const NamedBytes& tensor : *tensors) bytes += tensor.bytes.size();
  return bytes;
}

}  // namespace

fs::path save_checkpoint(const fs::path& output_dir, const TrainingState& state,
                         const std::optional<AdapterConfig>& adapter) {
  // better refused now than after gigabytes
  require_free_disk(output_dir, checkpoint_bytes(state), fmt::format("the checkpoint of step {}", state.step));
  AtomicFolder folder(checkpoint_path(output_dir, state.step));
  if (adapter)
    write_adapter(folder.path(), *adapter, state.weights);
  else
    write_model(folder.path(), state.weights);
  write_safetensors(folder.path() / "optimizer.safetensors", state.optimizer);
  const nlohmann::json facts = {{"step", state.step}, {"facts", state.facts}};
  write_text(folder.path() / "state.json", facts.dump(2) + "\n");
  write_text(folder.path() / kManifestFile, write_manifest(make_manifest(folder.path(), state.step, state.facts)));
  folder.commit();

  for (const auto& [step, path] : list_checkpoints(output_dir))
    if (step > state.step) remove_atomically(path);
  return folder.final_path();
}

}  // namespace tune
