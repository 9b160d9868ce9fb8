#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "data/tokenizer/tokenizer.h"

namespace tune {

/// What stands before a stretch of text; it decides about a dummy prefix.
enum class Before { nothing, added_token, text };

/// Which stretches of text get the dummy space in front (where the model has one at all).
enum class DummyPrefix {
  every_stretch,  // also after an added token: `legacy: true`, llama.cpp
  text_start,     // only at the start of the whole text: `legacy: false`
  never,          // `add_prefix_space: false`
};

/// The part of a tokenizer that knows nothing of added tokens: ordinary text <-> pieces. Thread-safe.
class TextModel {
 public:
  virtual ~TextModel() = default;

  /// Appends the ids of a stretch of text between two added tokens. offset: where it begins in the whole text.
  virtual void encode(std::string_view text, std::int32_t offset, Before before, Encoding& encoding) const = 0;

  /// Tokens (as token_text gives them) back to text; broken UTF-8 becomes U+FFFD.
  virtual std::string decode(std::span<const std::string> tokens) const = 0;

  virtual std::int32_t size() const = 0;  // highest id + 1
  virtual std::optional<std::int32_t> token_id(std::string_view token) const = 0;
  virtual std::string token_text(std::int32_t id) const = 0;  // empty for an id that isn't there
};

}  // namespace tune
