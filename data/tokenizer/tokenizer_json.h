#pragma once
#include <filesystem>
#include <memory>
#include <optional>
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

/// prefix: given, the file has a say in vocabulary and merges only, where its BPE isn't byte-level.
/// Error{Fault::data} with the file where it is damaged or has a model, normalizer or pre-tokenizer that isn't known:
/// what isn't understood to the last part would give other ids.
TokenizerJson read_tokenizer_json(const std::filesystem::path& path, std::optional<DummyPrefix> prefix);

/// What it says to a folder whose text model is a tokenizer.model.
struct TokenizerJsonRules {
  std::vector<AddedToken> added;
  std::vector<std::string> leading_tokens;
  std::optional<DummyPrefix> prefix;  // nothing where the file isn't understood
};
TokenizerJsonRules read_tokenizer_json_rules(const std::filesystem::path& path);

}  // namespace tune
