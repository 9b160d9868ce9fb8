#include "checkpoints/huggingface/shards.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "checkpoints/safetensors/header.h"

namespace tune {

std::vector<Shard> plan_shards(const std::vector<TensorInfo>& tensors, std::uint64_t max_bytes) {
  std::vector<Shard> shards(1);
  std::uint64_t used = 0;
  for (const TensorInfo& info : tensors) {
    const std::uint64_t size = byte_size(info);
    if (used + size > max_bytes && !shards.back().tensors.empty()) {
      shards.emplace_back();
      used = 0;
    }
    used += size;
    shards.back().tensors.push_back(info);
  }
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
