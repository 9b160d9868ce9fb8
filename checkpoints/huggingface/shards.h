#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "checkpoints/weights.h"

namespace tune {

/// One file of a model folder and the tensors it holds.
struct Shard {
  std::string file;
  std::vector<TensorInfo> tensors;
};

inline constexpr std::uint64_t kMaxShardBytes = 5'000'000'000;

/// Splits a model, in the given order, into files of at most max_bytes ("model.safetensors", or
/// "model-00001-of-00003.safetensors", …). A tensor is never split: one that is larger has a file to itself.
std::vector<Shard> plan_shards(const std::vector<TensorInfo>& tensors, std::uint64_t max_bytes = kMaxShardBytes);

/// model.safetensors.index.json for more than one shard.
inline constexpr const char* kShardIndexFile = "model.safetensors.index.json";
std::string format_shard_index(const std::vector<Shard>& shards);

}  // namespace tune
