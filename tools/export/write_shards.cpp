#include "tools/export/write_shards.h"

#include <fmt/format.h>

#include "checkpoints/files/atomic_file.h"
#include "checkpoints/files/file_system.h"
#include "checkpoints/huggingface/convert.h"
#include "checkpoints/safetensors/header.h"
#include "checkpoints/safetensors/writer.h"
#include "recipes/schema/error.h"
#include "tools/export/stream.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

Dtype dtype_of(const TensorInfo& tensor) {
  for (const Dtype dtype : {Dtype::fp32, Dtype::bf16, Dtype::fp16})
    if (tensor.dtype == dtype_name(dtype)) return dtype;
  throw Bug(fmt::format("{} is to be written as {}", tensor.name, tensor.dtype));
}

RowEncoding plain_encoding(Dtype dtype) {
  return {.type = dtype_name(dtype), .overflow = overflow_of(dtype), .encode = [dtype](std::span<float> rows) {
            std::vector<std::byte> bytes(rows.size() * element_bytes(dtype));
            convert_elements("F32", std::as_bytes(rows), dtype, bytes);
            return bytes;
          }};
}

}  // namespace

void write_shards(const WeightSource& weights, const std::vector<TensorInfo>& tensors, const fs::path& folder,
                  std::uint64_t max_bytes) {
  const std::vector<Shard> shards = plan_shards(tensors, max_bytes);
  std::uint64_t bytes = 0;
  for (const TensorInfo& tensor : tensors) bytes += byte_size(tensor);
  require_free_disk(folder, bytes + bytes / 10, "the model");
  for (const Shard& shard : shards) {
    SafetensorsWriter writer(folder / shard.file, shard.tensors);
    for (const TensorInfo& tensor : writer.tensors())
      stream_tensor(weights, tensor, 1, plain_encoding(dtype_of(tensor)),
                    [&](std::span<const std::byte> piece) { writer.write_tensor(tensor.name, piece); });
    writer.close();
  }
  if (shards.size() > 1) write_atomically(folder / kShardIndexFile, format_shard_index(shards));
}

}  // namespace tune
