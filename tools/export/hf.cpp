#include "tools/export/hf.h"

#include <fmt/format.h>

#include "checkpoints/files/atomic_file.h"
#include "checkpoints/files/atomic_folder.h"
#include "checkpoints/files/file_system.h"
#include "checkpoints/huggingface/config.h"
#include "checkpoints/huggingface/convert.h"
#include "checkpoints/huggingface/model_tensors.h"
#include "checkpoints/huggingface/shards.h"
#include "checkpoints/safetensors/writer.h"
#include "tools/export/hf_tokenizer.h"
#include "tools/export/stream.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

void write_shard(const WeightSource& weights, const Shard& shard, Dtype dtype, const fs::path& folder) {
  SafetensorsWriter writer(folder / shard.file, shard.tensors);
  const auto encode = [dtype](std::span<float> rows) {
    std::vector<std::byte> bytes(rows.size() * element_bytes(dtype));
    convert_elements("F32", std::as_bytes(rows), dtype, bytes);
    return bytes;
  };
  for (const TensorInfo& tensor : writer.tensors())
    stream_tensor(weights, tensor, 1, encode,
                  [&](std::span<const std::byte> piece) { writer.write_tensor(tensor.name, piece); });
  writer.close();
}

void write_weights(const ModelForExport& model, Dtype dtype, const fs::path& folder) {
  std::vector<TensorInfo> tensors = expected_tensors(model.base.config);
  for (TensorInfo& tensor : tensors) tensor.dtype = dtype_name(dtype);
  const std::vector<Shard> shards = plan_shards(tensors);
  for (const Shard& shard : shards) write_shard(model.weights, shard, dtype, folder);
  if (shards.size() > 1) write_atomically(folder / kShardIndexFile, format_shard_index(shards));
}

/// What belongs to the model and doesn't depend on its weights, licences among it.
void copy_companions(const fs::path& from, const fs::path& to) {
  for (const char* name : {"generation_config.json", "LICENSE", "LICENSE.txt", "NOTICE", "USE_POLICY.md"})
    if (fs::is_regular_file(from / name)) fs::copy_file(from / name, to / name);
}

}  // namespace

void export_hf(const ModelForExport& model, Dtype dtype, const fs::path& output) {
  const BaseModel& base = model.base;
  check_tensors(base.config, model.weights, base.path.string());
  AtomicFolder folder(output);
  const std::string config = base.is_gguf ? write_model_config(base.config, dtype)
                                          : patch_model_config(read_text(base.path / "config.json"), dtype);
  write_atomically(folder.path() / "config.json", config);
  if (!base.is_gguf) copy_companions(base.path, folder.path());
  write_tokenizer_files(base, model.chat_template, folder.path());
  write_weights(model, dtype, folder.path());
  folder.commit();
}

}  // namespace tune
