#pragma once
#include <filesystem>
#include <memory>

#include "data/tokenizer/tokenizer.h"

namespace tune {

/// The tokenizer inside a .gguf file: "gpt2" (byte-level BPE) or "llama" (SentencePiece, as llama.cpp reads it: a dummy
/// prefix after every special token). Error{Fault::data} with the file for any other.
std::unique_ptr<Tokenizer> open_gguf_tokenizer(const std::filesystem::path& file);

}  // namespace tune
