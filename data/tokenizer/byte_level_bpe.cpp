#include "data/tokenizer/byte_level_bpe.h"

#include <array>
#include <atomic>

#include "data/tokenizer/pre_tokenizer.h"
#include "data/tokenizer/utf8.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

// GPT-2's alphabet: visible Latin-1 characters stand for their own byte, the others for U+0100 and what follows.
std::array<char32_t, 256> byte_characters() {
  std::array<char32_t, 256> characters{};
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool visible = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    characters[byte] = visible ? byte : next++;
  }
  return characters;
}

class ByteLevelBpe final : public TextModel {
 public:
  ByteLevelBpe(const BpeModel& model, const std::vector<std::string>& word_expressions, const std::string& name)
      : bpe_(model, name), pre_tokenizer_(word_expressions, name), number_(next_number_++) {
    const auto characters = byte_characters();
    bytes_.fill(-1);
    for (int byte = 0; byte < 256; ++byte) {
      spelling_[byte] = utf8_encode(characters[byte]);
      bytes_[characters[byte]] = byte;
    }
  }

  void encode(std::string_view text, std::int32_t offset, Before, Encoding& encoding) const override {
    for (const std::string_view word : pre_tokenizer_.split(text)) {
      encode_word(word, offset + static_cast<std::int32_t>(word.data() - text.data()), encoding);
    }
  }

  // A token with characters of no byte (an added one) stands for itself.
  std::string decode(std::span<const std::string> tokens) const override {
    std::string bytes;
    for (const std::string& token : tokens) bytes += bytes_of(token);
    return utf8_lossy(bytes);
  }

  std::int32_t size() const override { return bpe_.size(); }
  std::optional<std::int32_t> token_id(std::string_view token) const override { return bpe_.token_id(token); }
  std::string token_text(std::int32_t id) const override {
    return id >= 0 && id < size() ? bpe_.token_text(id) : std::string();
  }

 private:
  // Words come again and again; each thread remembers those of the tokenizer it worked with last.
  struct Cache {
    std::uint64_t owner = 0;
    std::unordered_map<std::string, std::vector<BpeToken>> words;
  };
  static constexpr std::size_t kMaxCachedWords = 1 << 16, kMaxCachedWordBytes = 64;

  void encode_word(std::string_view word, std::int32_t offset, Encoding& encoding) const {
    if (word.size() > kMaxCachedWordBytes) return append(tokens_of(word), offset, encoding);
    static thread_local Cache cache;
    if (cache.owner != number_ || cache.words.size() >= kMaxCachedWords) cache = {number_, {}};
    const auto [found, fresh] = cache.words.try_emplace(std::string(word));
    if (fresh) found->second = tokens_of(word);
    append(found->second, offset, encoding);
  }

  static void append(const std::vector<BpeToken>& tokens, std::int32_t offset, Encoding& encoding) {
    for (const BpeToken& token : tokens) {
      encoding.ids.push_back(token.id);
      encoding.begin.push_back(offset + token.begin);
    }
  }

  std::vector<BpeToken> tokens_of(std::string_view word) const {
    std::string spelled;
    std::vector<std::int32_t> source;  // of each byte of `spelled`: where in the word its character begins
    std::int32_t character = 0;
    for (std::size_t i = 0; i < word.size(); ++i) {
      const auto byte = static_cast<std::uint8_t>(word[i]);
      if ((byte & 0xC0) != 0x80) character = static_cast<std::int32_t>(i);
      spelled += spelling_[byte];
      source.resize(spelled.size(), character);
    }
    std::vector<BpeToken> tokens = bpe_.encode(spelled);
    for (BpeToken& token : tokens) token.begin = source[token.begin];
    return tokens;
  }

  std::string bytes_of(const std::string& token) const {
    std::string bytes;
    for (std::size_t i = 0; i < token.size(); i += std::max<std::size_t>(utf8_length(token, i), 1)) {
      const char32_t c = utf8_code_point(token, i);
      if (c >= bytes_.size() || bytes_[c] < 0) return token;
      bytes += static_cast<char>(bytes_[c]);
    }
    return bytes;
  }

  static inline std::atomic<std::uint64_t> next_number_ = 1;

  Bpe bpe_;
  PreTokenizer pre_tokenizer_;
  std::uint64_t number_;  // no two tokenizers of a process have the same
  std::array<std::string, 256> spelling_;
  std::array<int, 0x144> bytes_{};  // character -> byte, -1 = none
};

}  // namespace

std::unique_ptr<TextModel> make_byte_level_bpe(const BpeModel& model, const std::vector<std::string>& word_expressions,
                                               const std::string& name) {
  return std::make_unique<ByteLevelBpe>(model, word_expressions, name);
}

}  // namespace tune
