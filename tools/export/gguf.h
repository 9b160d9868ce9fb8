#pragma once
#include <filesystem>

#include "recipes/schema/recipe.h"
#include "tools/export/model.h"

namespace tune {

/// Writes one GGUF file with weights, tokenizer and chat template that llama.cpp loads by itself. Types as of
/// gguf_type_for. Streamed: a few MB whatever the model's size.
/// Error{Fault::data} when llama.cpp can't express the tokenizer, before anything is written, and for weights that are
/// no numbers or none in `quant`; Error{Fault::running} when the disk refuses or is too small.
void export_gguf(const ModelForExport& model, Quant quant, const std::filesystem::path& output);

}  // namespace tune
