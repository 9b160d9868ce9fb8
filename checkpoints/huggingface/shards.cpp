#include "checkpoints/huggingface/shards.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "checkpoints/files/split.h"
#include "checkpoints/safetensors/header.h"

namespace tune {

std::vector<Shard> plan_shards(const std::vector<TensorInfo>& tensors, std::uint64_t max_bytes) {
  std::vector<std::uint64_t> sizes;
  for (const TensorInfo& info : tensors) sizes.push_back(byte_size(info));
  const std::vector<std::size_t> files = split_by_size(sizes, max_bytes);
  std::vector<Shard> shards(files.empty() ? 1 : files.back() + 1);
  for (std::size_t i = 0; i < tensors.size(); ++i) shards[files[i]].tensors.push_back(tensors[i]);
  for (std::size_t i = 0; i < shards.size(); ++i)
    shards[i].file = shards.size() == 1 ? "model.safetensors"
                                        : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
  return shards;
}

std::string format_shard_index(const std::vector<Shard>& shards) {
  std::uint64_t total = 0;
  nlohmann::json map = nlohmann::json::object();
  for (const Shard& shard : shards)
    for (const TensorInfo& info : shard.tensors) {
      map[info.name] = shard.file;
      total += byte_size(info);
    }
  const nlohmann::json index = {{"metadata", {{"total_size", total}}}, {"weight_map", std::move(map)}};
  return index.dump(2) + "\n";
}

}  // namespace tune
