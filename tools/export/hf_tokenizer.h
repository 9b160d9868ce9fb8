#pragma once
#include <filesystem>
#include <string>

#include "checkpoints/base_model.h"

namespace tune {

/// Puts the tokenizer of a model into a folder: files that are there are copied byte for byte; those of a GGUF are made
/// so that transformers' AutoTokenizer and we ourselves give the ids that the GGUF gives. A chat_template that isn't
/// empty replaces the model's own. Error{Fault::data} for a tokenizer that can't be written so.
void write_tokenizer_files(const BaseModel& base, const std::string& chat_template,
                           const std::filesystem::path& folder);

/// The same Error, and nothing written.
void check_tokenizer_files(const BaseModel& base);

}  // namespace tune
