#pragma once
#include <filesystem>

#include "recipes/schema/recipe.h"
#include "tools/export/model.h"

namespace tune {

/// Writes one GGUF file with weights, tokenizer and chat template that llama.cpp loads by itself. Types as of
/// gguf_type_for. Streamed: a few MB whatever the model's size.
/// Error{Fault::data} when llama.cpp can't express the tokenizer, before anything is written, and for weights that are
/// no numbers or none in `quant`; Error{Fault::running} when the disk refuses or is too small.
///
/// Where the tensors take more than max_shard_bytes, they are split over parts NAME-00001-of-0000N.gguf of at most that
/// (a larger tensor has a part of its own); llama.cpp is given the first. They get their names when all are whole.
/// Returns the file, or the first part. Earlier exports of the name, with however many parts, are gone then.
std::filesystem::path export_gguf(const ModelForExport& model, Quant quant, std::uint64_t max_shard_bytes,
                                  const std::filesystem::path& output);

}  // namespace tune
