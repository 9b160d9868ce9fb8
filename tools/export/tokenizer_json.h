#pragma once
#include <string>

#include "checkpoints/gguf/tokenizer.h"

namespace tune {

/// The tokenizer of a GGUF as a tokenizer.json (the file of the Rust library `tokenizers`) that gives the same ids.
/// Error{Fault::data} at `where` for kinds that we don't know to the last part.
std::string tokenizer_json(const GgufTokenizer& gguf, const std::string& where);

/// And as a SentencePiece tokenizer.model, for gguf.model "llama".
std::string sentencepiece_bytes(const GgufTokenizer& gguf, const std::string& where);

}  // namespace tune
