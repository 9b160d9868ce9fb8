#pragma once
#include <filesystem>

#include "checkpoints/huggingface/shards.h"
#include "recipes/schema/recipe.h"
#include "tools/export/model.h"

namespace tune {

/// Fills a folder in Hugging Face layout that transformers loads: weights in shards with an index, config.json,
/// tokenizer files (copied byte for byte, but for a chat template that is another now; made from the GGUF where the
/// base is one). Streamed: a few MB whatever the model's size. Error{Fault::data} for weights that are no numbers or
/// none in `dtype`; Error{Fault::running} when the disk refuses or is too small. folder: an AtomicFolder's path().
/// max_shard_bytes: of the tensors of a shard; a larger tensor has a shard of its own.
void export_hf(const ModelForExport& model, Dtype dtype, const std::filesystem::path& folder,
               std::uint64_t max_shard_bytes = kMaxShardBytes);

/// The same without the weights. dtype: what config.json says of them.
void write_companions(const ModelForExport& model, Dtype dtype, const std::filesystem::path& folder);

}  // namespace tune
