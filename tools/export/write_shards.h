#pragma once
#include <filesystem>
#include <vector>

#include "checkpoints/huggingface/shards.h"
#include "checkpoints/weights.h"

namespace tune {

/// Writes `tensors` of `weights`, each in the dtype that it names, as model.safetensors, or as shards with an index
/// where one file would have more than max_bytes. Streamed: a few MB whatever the model's size. Numbers that a tensor
/// has already in its dtype stay what they are, bit by bit. Error{Fault::running} when the disk refuses or hasn't room,
/// Error{Fault::data} naming tensor and row of a value that is no number or too large for its dtype. TUNE_CHECK: every
/// dtype is one that convert_elements() writes.
void write_shards(const WeightSource& weights, const std::vector<TensorInfo>& tensors,
                  const std::filesystem::path& folder, std::uint64_t max_bytes = kMaxShardBytes);

}  // namespace tune
