#include "data/tokenizer/gguf_tokenizer.h"

#include <fmt/format.h>

#include <vector>

#include "checkpoints/files/hash.h"
#include "checkpoints/gguf/gguf.h"
#include "checkpoints/gguf/tokenizer.h"
#include "data/tokenizer/added_tokens.h"
#include "data/tokenizer/byte_level_bpe.h"
#include "data/tokenizer/pre_tokenizer.h"
#include "data/tokenizer/sentencepiece.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

[[noreturn]] void refuse(const std::string& name, const std::string& what) {
  throw Error{Fault::data, Place{name}, what, "use the model's folder in Hugging Face layout instead of the GGUF file"};
}

PieceType type_of(const GgufTokenizer& gguf, std::size_t id, const std::string& name) {
  if (gguf.types.empty()) return PieceType::normal;
  if (gguf.types[id] < 1 || gguf.types[id] > 6)
    refuse(name, fmt::format("token {} is of type {}; types are 1 to 6", id, gguf.types[id]));
  return static_cast<PieceType>(gguf.types[id]);
}

std::vector<std::string> word_expressions(const std::string& pre, const std::string& name) {
  if (pre == "smollm") return {std::string(kEachDigit), std::string(kGpt2Words)};
  if (pre == "gpt-2" || pre == "default" || pre.empty()) return {std::string(kGpt2Words)};
  refuse(name, fmt::format("tokenizer.ggml.pre is \"{}\"; smollm, gpt-2 and default are known", pre));
}

std::unique_ptr<TextModel> byte_level(const GgufTokenizer& gguf, const std::string& name) {
  BpeModel bpe;
  for (std::size_t id = 0; id < gguf.tokens.size(); ++id) {
    if (!bpe.vocabulary.emplace(gguf.tokens[id], static_cast<std::int32_t>(id)).second) {
      refuse(name, fmt::format("token {} (\"{}\") is there twice", id, gguf.tokens[id]));
    }
  }
  for (const std::string& merge : gguf.merges) {
    const std::size_t space = merge.find(' ', 1);  // a token isn't empty
    if (space == std::string::npos) refuse(name, fmt::format("the merge \"{}\" isn't a pair of tokens", merge));
    bpe.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  return make_byte_level_bpe(bpe, word_expressions(gguf.pre, name), name);
}

std::unique_ptr<TextModel> sentencepiece(const GgufTokenizer& gguf, const std::string& name) {
  if (gguf.scores.empty()) refuse(name, "the tokenizer has no scores");
  std::vector<SentencePiece> pieces;
  for (std::size_t id = 0; id < gguf.tokens.size(); ++id)
    pieces.push_back({gguf.tokens[id], gguf.scores[id], type_of(gguf, id, name)});
  const std::int32_t unk = gguf.unk_id.value_or(0);
  auto model = make_sentencepiece_model(std::move(pieces), unk, gguf.bos_id.value_or(-1), gguf.eos_id.value_or(-1),
                                        gguf.add_space_prefix, name);
  return make_sentencepiece(std::move(model), DummyPrefix::every_stretch, name);
}

// Control and user-defined tokens are looked for in the text.
std::vector<AddedToken> added_tokens(const GgufTokenizer& gguf, const std::string& name) {
  std::vector<AddedToken> added;
  for (std::size_t id = 0; id < gguf.tokens.size(); ++id) {
    const PieceType type = type_of(gguf, id, name);
    const bool unknown = type == PieceType::unknown;
    if (type != PieceType::control && type != PieceType::user_defined && !unknown) continue;
    added.push_back(
        {.content = gguf.tokens[id], .id = static_cast<std::int32_t>(id), .special = type != PieceType::user_defined});
  }
  return added;
}

std::string fingerprint_of(const GgufTokenizer& gguf) {
  std::string all = fmt::format("{}\n{}\n{}\n{}\n{} {}\n", gguf.model, gguf.pre, gguf.chat_template, gguf.add_bos,
                                gguf.add_space_prefix, gguf.tokens.size());
  const auto add = [&](const std::string& text) { all += fmt::format("{} {}\n", text.size(), text); };
  for (const auto& id : {gguf.bos_id, gguf.eos_id, gguf.unk_id, gguf.pad_id}) add(fmt::format("{}", id.value_or(-1)));
  for (const std::string& token : gguf.tokens) add(token);
  for (const std::string& merge : gguf.merges) add(merge);
  for (const float score : gguf.scores) add(fmt::format("{}", score));
  for (const std::int32_t type : gguf.types) add(fmt::format("{}", type));
  return xxh3_128(all);
}

}  // namespace

std::unique_ptr<Tokenizer> open_gguf_tokenizer(const std::filesystem::path& file) {
  const std::string name = file.string();
  GgufTokenizer gguf = read_gguf_tokenizer(GgufFile(file));
  if (!gguf.eos_id) refuse(name, "the tokenizer has no eos_token_id in its vocabulary");
  std::unique_ptr<TextModel> model;
  if (gguf.model == "gpt2") model = byte_level(gguf, name);
  if (gguf.model == "llama") model = sentencepiece(gguf, name);
  if (!model) refuse(name, fmt::format("tokenizer.ggml.model is \"{}\"; gpt2 and llama are known", gguf.model));

  auto tokenizer = std::make_unique<TokenizerWithAddedTokens>(std::move(model), added_tokens(gguf, name));
  const auto text_of = [&](std::optional<std::int32_t> id) { return id ? gguf.tokens[*id] : std::string(); };
  tokenizer->bos_id = gguf.bos_id;
  tokenizer->eos_id = gguf.eos_id;
  tokenizer->unk_id = gguf.unk_id;
  tokenizer->pad_id = gguf.pad_id;
  tokenizer->bos_token = text_of(gguf.bos_id);
  tokenizer->eos_token = text_of(gguf.eos_id);
  tokenizer->add_bos = gguf.add_bos && gguf.bos_id.has_value();
  tokenizer->chat_template = gguf.chat_template;
  tokenizer->fingerprint = fingerprint_of(gguf);
  return tokenizer;
}

}  // namespace tune
