#include "data/tokenizer/sentencepiece.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <unordered_map>

#include "data/tokenizer/piece_text.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

void load(sentencepiece::SentencePieceProcessor& processor, const std::string& bytes, const std::string& name) {
  const auto status = processor.LoadFromSerializedProto(bytes);
  if (!status.ok()) {
    throw Error{Fault::data, Place{name}, fmt::format("SentencePiece refuses the model: {}", status.message()),
                "copy the file again from where the model was published"};
  }
}

// In protobuf a message that comes twice is merged: a second normalizer_spec {add_dummy_prefix: false} overrules.
std::string without_dummy_prefix(std::string bytes) { return std::move(bytes.append({0x1A, 0x02, 0x18, 0x00})); }

class SentencePieceTextModel final : public TextModel {
 public:
  SentencePieceTextModel(SentencePieceModel model, DummyPrefix dummy_prefix, const std::string& name)
      : pieces_(std::move(model.pieces)),
        drops_leading_space_(model.add_dummy_prefix && dummy_prefix != DummyPrefix::never) {
    load(at_start_, dummy_prefix == DummyPrefix::never ? without_dummy_prefix(model.bytes) : model.bytes, name);
    if (drops_leading_space_) {
      load(bare_, without_dummy_prefix(std::move(model.bytes)), name);
      inside_ = &bare_;
      if (dummy_prefix == DummyPrefix::text_start) later_ = &bare_;
    }
    for (std::size_t id = 0; id < pieces_.size(); ++id) ids_.emplace(pieces_[id].text, static_cast<std::int32_t>(id));
  }

  void encode(std::string_view text, std::int32_t offset, Before before, Encoding& encoding) const override {
    const auto& processor = before == Before::nothing ? at_start_ : before == Before::text ? *inside_ : *later_;
    sentencepiece::ImmutableSentencePieceText result;
    const auto status = processor.Encode(text, result.mutable_proto());
    TUNE_CHECK(status.ok(), "SentencePiece can't encode: {}", status.message());
    const std::size_t count = result.pieces_size();
    encoding.ids.reserve(encoding.ids.size() + count);
    encoding.begin.reserve(encoding.begin.size() + count);
    for (std::size_t i = 0; i < count; ++i) {
      const auto piece = result.pieces(static_cast<int>(i));
      encoding.ids.push_back(static_cast<std::int32_t>(piece.id()));
      encoding.begin.push_back(offset + static_cast<std::int32_t>(piece.begin()));
    }
  }

  std::string decode(std::span<const std::string> tokens) const override {
    return decode_pieces(tokens, drops_leading_space_);
  }

  std::int32_t size() const override { return static_cast<std::int32_t>(pieces_.size()); }

  std::optional<std::int32_t> token_id(std::string_view token) const override {
    const auto found = ids_.find(token);
    if (found == ids_.end()) return std::nullopt;
    return found->second;
  }

  std::string token_text(std::int32_t id) const override {
    return id >= 0 && id < size() ? pieces_[id].text : std::string();
  }

 private:
  std::vector<SentencePiece> pieces_;
  std::unordered_map<std::string_view, std::int32_t> ids_;
  bool drops_leading_space_;
  sentencepiece::SentencePieceProcessor at_start_, bare_;
  const sentencepiece::SentencePieceProcessor* later_ = &at_start_;   // behind an added token
  const sentencepiece::SentencePieceProcessor* inside_ = &at_start_;  // where a text goes on
};

}  // namespace

std::unique_ptr<TextModel> make_sentencepiece(SentencePieceModel model, DummyPrefix dummy_prefix,
                                              const std::string& name) {
  return std::make_unique<SentencePieceTextModel>(std::move(model), dummy_prefix, name);
}

}  // namespace tune
