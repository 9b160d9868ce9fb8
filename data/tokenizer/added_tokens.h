#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/tokenizer/text_model.h"

namespace tune {

/// A token that is looked for in the text before the model sees it. The flags are those of tokenizer_config.json:
/// lstrip and rstrip swallow the white space beside it, single_word wants no letter beside it, normalized ones are
/// looked for only in what the others leave.
struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool special = true;
  bool lstrip = false, rstrip = false, single_word = false, normalized = false;
};

/// A tokenizer made of a text model and the added tokens around it, as the Rust library `tokenizers` puts them
/// together: the longest token that begins leftmost wins.
class TokenizerWithAddedTokens final : public Tokenizer {
 public:
  /// Of two added tokens with the same content the last one counts. One whose id lies in the model's vocabulary needs
  /// not have the same text there.
  TokenizerWithAddedTokens(std::unique_ptr<TextModel> model, std::vector<AddedToken> added);

  using Tokenizer::encode;
  Encoding encode(std::string_view text, TextPart part) const override;
  Encoding encode_plain(std::string_view text) const override;
  std::string decode(std::span<const std::int32_t> ids, bool skip_special) const override;
  std::int64_t vocab_size() const override;
  std::optional<std::int32_t> token_id(std::string_view token) const override;
  std::string token_text(std::int32_t id) const override;
  bool is_special(std::int32_t id) const override;

 private:
  // Tokens by their first byte, longest first.
  using Finder = std::array<std::vector<const AddedToken*>, 256>;
  struct Match {
    const AddedToken* token;
    std::size_t begin, end;
  };

  std::vector<Match> matches(const Finder& finder, std::string_view text, std::size_t begin, std::size_t end) const;
  void encode_between(std::string_view text, std::size_t begin, std::size_t end, Before before,
                      Encoding& encoding) const;

  std::unique_ptr<TextModel> model_;
  std::vector<AddedToken> added_;
  std::unordered_map<std::int32_t, const AddedToken*> by_id_;
  std::unordered_map<std::string_view, const AddedToken*> by_content_;
  Finder first_, second_;  // second_: the normalized ones
};

}  // namespace tune
