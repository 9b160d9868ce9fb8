#include "data/tokenizer/piece_bpe.h"

#include "data/tokenizer/piece_text.h"

namespace tune {

namespace {

class PieceBpe final : public TextModel {
 public:
  PieceBpe(const BpeModel& model, const PieceBpeOptions& options, const std::string& name)
      : bpe_(model, name), options_(options) {}

  void encode(std::string_view text, std::int32_t offset, Before before, Encoding& encoding) const override {
    if (text.empty()) return;
    std::string spelled;
    std::vector<std::int32_t> source;  // of each byte of `spelled`: the offset in the text
    spelled.reserve(text.size() * 2);
    source.reserve(text.size() * 2);
    const auto put = [&](std::string_view what, std::size_t from) {
      spelled += what;
      source.resize(spelled.size(), offset + static_cast<std::int32_t>(from));
    };
    if (wants_prefix(text, before)) put(kEscapedSpace, 0);
    for (std::size_t i = 0; i < text.size(); ++i) put(text[i] == ' ' ? kEscapedSpace : text.substr(i, 1), i);
    for (std::size_t begin = 0; begin < spelled.size();) {
      const std::size_t end = word_end(spelled, begin);
      for (const BpeToken& token : bpe_.encode(std::string_view(spelled).substr(begin, end - begin))) {
        encoding.ids.push_back(token.id);
        encoding.begin.push_back(source[begin + token.begin]);
      }
      begin = end;
    }
  }

  std::string decode(std::span<const std::string> tokens) const override {
    return decode_pieces(tokens, options_.drops_leading_space);
  }
  std::int32_t size() const override { return bpe_.size(); }
  std::optional<std::int32_t> token_id(std::string_view token) const override { return bpe_.token_id(token); }
  std::string token_text(std::int32_t id) const override {
    return id >= 0 && id < size() ? bpe_.token_text(id) : std::string();
  }

 private:
  bool wants_prefix(std::string_view text, Before before) const {
    if (options_.prefix == DummyPrefix::never || before == Before::text) return false;
    if (options_.prefix == DummyPrefix::text_start && before != Before::nothing) return false;
    return options_.doubles_prefix || !(text.starts_with(' ') || text.starts_with(kEscapedSpace));
  }

  std::size_t word_end(std::string_view spelled, std::size_t begin) const {
    if (!options_.splits_words) return spelled.size();
    const std::size_t next = spelled.find(kEscapedSpace, begin + 1);
    return next == std::string_view::npos ? spelled.size() : next;
  }

  Bpe bpe_;
  PieceBpeOptions options_;
};

}  // namespace

std::unique_ptr<TextModel> make_piece_bpe(const BpeModel& model, const PieceBpeOptions& options,
                                          const std::string& name) {
  return std::make_unique<PieceBpe>(model, options, name);
}

}  // namespace tune
