#include "checkpoints/training/save.h"

#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>
#include <unordered_map>

#include "checkpoints/files/atomic_file.h"
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
using nlohmann::json;

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

// What all checkpoints have in common, once their tensors are written.
void finish(AtomicFolder& folder, const TrainingState& state, const std::vector<ManifestFile>& parts = {}) {
  write_text(folder.path() / "state.json", json{{"step", state.step}, {"facts", state.facts}}.dump(2) + "\n");
  write_text(folder.path() / kManifestFile,
             write_manifest(make_manifest(folder.path(), state.step, state.facts, parts)));
  folder.commit();
  for (const auto& [step, path] : list_checkpoints(folder.final_path().parent_path()))
    if (step > state.step) remove_atomically(path);
}

std::string part_name(std::int64_t number, std::int64_t count) {
  return fmt::format("part-{:05}-of-{:05}.safetensors", number + 1, count);
}

fs::path sum_of(const fs::path& part) { return fs::path(part).concat(".sum"); }

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
  finish(folder, state);
  return folder.final_path();
}

void save_part(const fs::path& folder, const TrainingState& state, std::int64_t number, std::int64_t count) {
  require_free_disk(folder, checkpoint_bytes(state), fmt::format("a part of the checkpoint of step {}", state.step));
  std::vector<NamedBytes> all = state.weights;
  all.insert(all.end(), state.optimizer.begin(), state.optimizer.end());
  const fs::path path = folder / part_name(number, count);
  write_safetensors(path, all);
  sync_directory(folder);
  const ManifestFile file = describe_file(path);
  write_atomically(sum_of(path), json{{"size", file.size_bytes}, {"xxh3_128", file.xxh3_128}}.dump());
}

void finish_parts(AtomicFolder& folder, const TrainingState& state, std::int64_t count) {
  std::vector<ManifestFile> parts;
  for (std::int64_t number = 0; number < count; ++number) {
    const fs::path path = folder.path() / part_name(number, count);
    while (!fs::exists(sum_of(path))) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const json sum = json::parse(read_text(sum_of(path)));
    parts.push_back({path.filename().string(), sum.at("size").get<std::uint64_t>(), sum.at("xxh3_128")});
    fs::remove(sum_of(path));
  }
  finish(folder, state, parts);
}

}  // namespace tune
