#pragma once
#include <filesystem>

#include "recipes/schema/recipe.h"
#include "tools/export/importance_matrix.h"
#include "tools/export/model.h"

namespace tune {

struct GgufExport {
  Quant quant = kDefaultQuant;
  std::uint64_t max_shard_bytes = UINT64_MAX;
  const ImportanceMatrix& importance;  // of the columns, for the quantised formats; may be empty
};

/// Writes one GGUF file with weights, tokenizer and chat template that llama.cpp loads by itself. Types as of
/// gguf_type_for. Streamed: a few MB whatever the model's size.
/// Error{Fault::data} when llama.cpp can't express the tokenizer, before anything is written, and for weights that are
/// no numbers or none in wanted.quant; Error{Fault::running} when the disk refuses or is too small.
///
/// Where the tensors take more than wanted.max_shard_bytes, they are split over parts NAME-00001-of-0000N.gguf of at
/// most that (a larger tensor has a part of its own); llama.cpp is given the first. They get their names when all are
/// whole. Returns the file, or the first part. Earlier exports of the name, with however many parts, are gone then.
std::filesystem::path export_gguf(const ModelForExport& model, const GgufExport& wanted,
                                  const std::filesystem::path& output);

}  // namespace tune
