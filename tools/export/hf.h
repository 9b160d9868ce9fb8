#pragma once
#include <filesystem>

#include "recipes/schema/recipe.h"
#include "tools/export/model.h"

namespace tune {

/// Writes a folder in Hugging Face layout that transformers loads: weights in shards with an index, config.json,
/// tokenizer files (copied byte for byte, but for a chat template that is another now; made from the GGUF where the
/// base is one). Appears whole or not at all. Streamed: a few MB whatever the model's size. Error{Fault::data} when the
/// weights don't fit the configuration; Error{Fault::running} when the disk refuses.
void export_hf(const ModelForExport& model, Dtype dtype, const std::filesystem::path& output);

}  // namespace tune
