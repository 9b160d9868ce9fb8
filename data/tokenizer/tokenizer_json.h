#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer/added_tokens.h"
#include "data/tokenizer/text_model.h"

namespace tune {

/// A tokenizer.json (the file of the Rust library `tokenizers`): byte-level BPE, or SentencePiece-like BPE with byte
/// fallback.
struct TokenizerJson {
  std::unique_ptr<TextModel> model;
  std::vector<AddedToken> added;
  std::vector<std::string> leading_tokens;  // what its post-processor puts in front of a text (BOS)
};

/// Error{Fault::data} with the file where it is damaged or has a model, normalizer or pre-tokenizer that isn't known:
/// what isn't understood to the last part would give other ids.
TokenizerJson read_tokenizer_json(const std::filesystem::path& path);

/// Only its added tokens, for a folder whose text model is a tokenizer.model.
std::vector<AddedToken> read_added_tokens_of_json(const std::filesystem::path& path);

}  // namespace tune
