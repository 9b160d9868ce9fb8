#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tune {

/// Text turned into ids. begin[i] is the offset in bytes of the text where id i begins (ids that stand for a part of a
/// character share an offset; an id that stands for no text, such as SentencePiece's dummy prefix, has the next one's).
struct Encoding {
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> begin;
};

/// A long text comes in parts, cut where no token crosses (stretch_end): their ids, one behind the other, are its ids.
enum class TextPart { whole, first, middle, last };
constexpr bool begins(TextPart part) { return part == TextPart::whole || part == TextPart::first; }
constexpr bool ends(TextPart part) { return part == TextPart::whole || part == TextPart::last; }
constexpr TextPart text_part(bool begins, bool ends) {
  if (begins) return ends ? TextPart::whole : TextPart::first;
  return ends ? TextPart::last : TextPart::middle;
}

/// Text <-> ids as the model was trained: a tokenizer.model as SentencePiece reads it, a tokenizer.json as `tokenizers`
/// does, and around them added tokens and the dummy prefix as transformers handles them for these files. The only owner
/// of BOS and EOS: nobody else adds them. Thread-safe once made.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Added and special tokens spelled in the text become their ids, as transformers does. Adds no BOS or EOS.
  virtual Encoding encode(std::string_view text, TextPart part) const = 0;
  Encoding encode(std::string_view text) const { return encode(text, TextPart::whole); }

  /// Special tokens spelled in the text stay plain text, as SentencePiece and a bare `tokenizers` model do.
  virtual Encoding encode_plain(std::string_view text) const { return encode(text); }

  /// The text of the ids; special tokens are left out when skip_special. Broken UTF-8 becomes U+FFFD.
  virtual std::string decode(std::span<const std::int32_t> ids, bool skip_special = true) const = 0;

  virtual std::int64_t vocab_size() const = 0;                                     // highest id + 1
  virtual std::optional<std::int32_t> token_id(std::string_view token) const = 0;  // by exact piece or added token
  virtual std::string token_text(std::int32_t id) const = 0;                       // the piece as stored
  virtual bool is_special(std::int32_t id) const = 0;

  std::optional<std::int32_t> bos_id, eos_id, unk_id, pad_id;
  bool add_bos = false;  // whether a text begins with BOS, as the model's files ask for it (add_bos_token)
  std::string bos_token, eos_token;
  std::string chat_template;  // Jinja text of the model's files; never executed
  std::string fingerprint;    // hex hash of everything that decides an encoding

 protected:
  Tokenizer() = default;
};

/// model: a Hugging Face folder (tokenizer.model, tokenizer.json, tokenizer_config.json, ...) or a .gguf file.
/// Error{Fault::data} with file and remedy when there is none, it is damaged, or of a kind not known.
std::unique_ptr<Tokenizer> open_tokenizer(const std::filesystem::path& model);

}  // namespace tune
