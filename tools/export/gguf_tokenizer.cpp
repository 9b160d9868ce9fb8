#include "tools/export/gguf_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include "checkpoints/files/json.h"
#include "data/infilling.h"
#include "data/templates/own_template.h"
#include "data/tokenizer/sentencepiece_model.h"
#include "data/tokenizer/tokenizer.h"
#include "recipes/schema/error.h"
#include "recipes/schema/tell.h"

namespace tune {

namespace {

using nlohmann::json;
namespace fs = std::filesystem;

enum TokenType : std::int32_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };
constexpr float kAddedScore = -1000.0f, kPaddingScore = -10000.0f;

[[noreturn]] void refuse(const fs::path& file, const std::string& what) {
  throw Error{Fault::data, {file.string()}, what, "export to Hugging Face format instead: --format hf"};
}

std::string with_spaces(std::string_view text) {
  constexpr std::string_view kEscapedSpace = "\u2581";
  std::string result;
  for (std::size_t at = text.find(kEscapedSpace); at != std::string_view::npos; at = text.find(kEscapedSpace)) {
    result += text.substr(0, at);
    result += ' ';
    text.remove_prefix(at + kEscapedSpace.size());
  }
  result += text;
  return result;
}

/// What the vocabulary file doesn't have or what the other files say of it: added tokens, specials, ids, BOS.
void add_surroundings(const Tokenizer& tokenizer, GgufTokenizer& gguf) {
  for (std::size_t id = 0; id < gguf.tokens.size(); ++id)
    if (gguf.types[id] == kNormal && tokenizer.is_special(static_cast<std::int32_t>(id))) gguf.types[id] = kControl;
  for (auto id = static_cast<std::int32_t>(gguf.tokens.size()); id < tokenizer.vocab_size(); ++id) {
    const std::string text = tokenizer.token_text(id);
    const bool special = tokenizer.is_special(id);
    gguf.tokens.push_back(text.empty() ? fmt::format("[PAD{}]", id) : special ? text : with_spaces(text));
    gguf.types.push_back(text.empty() ? kUnused : special ? kControl : kUserDefined);
    if (!gguf.scores.empty()) gguf.scores.push_back(kAddedScore);
  }
  gguf.bos_id = tokenizer.bos_id;
  gguf.eos_id = tokenizer.eos_id;
  gguf.unk_id = tokenizer.unk_id;
  gguf.pad_id = tokenizer.pad_id;
  gguf.add_bos = tokenizer.add_bos;
  gguf.chat_template = tokenizer.chat_template;
}

GgufTokenizer from_sentencepiece(const fs::path& folder) {
  const fs::path file = folder / "tokenizer.model";
  const SentencePieceModel model = read_sentencepiece_model(file);
  if (!model.bpe) refuse(file, "is a unigram model; llama.cpp reads BPE models for this architecture");
  GgufTokenizer gguf{.model = "llama", .pre = "default", .add_space_prefix = model.add_dummy_prefix};
  for (const SentencePiece& piece : model.pieces) {
    gguf.tokens.push_back(piece.text);
    gguf.scores.push_back(piece.score);
    gguf.types.push_back(static_cast<std::int32_t>(piece.type));
  }
  const fs::path config = folder / "tokenizer_config.json";
  if (fs::exists(config) && read_json_object(config).value("legacy", json(false)) == false)  // absent: not legacy
    tell("note: the tokenizer is not `legacy`: llama.cpp puts a space behind special tokens where it doesn't\n");
  return gguf;
}

/// llama.cpp knows ways to cut text into words by name; only those that are surely the same are named.
std::string pre_tokenizer_name(const json& file, const fs::path& path) {
  const json part = file.value("pre_tokenizer", json());
  const auto is_byte_level = [](const json& p) {
    return p.value("type", "") == "ByteLevel" && !p.value("add_prefix_space", true) && p.value("use_regex", true);
  };
  if (!file.value("normalizer", json()).is_null()) refuse(path, "has a normalizer, which llama.cpp doesn't apply");
  if (part.is_object() && is_byte_level(part)) return "gpt-2";
  if (part.is_object() && part.value("type", "") == "Sequence" && part.value("pretokenizers", json()).size() == 2) {
    const json& first = part["pretokenizers"][0];
    const bool digits = first.value("type", "") == "Digits" && first.value("individual_digits", false);
    if (digits && is_byte_level(part["pretokenizers"][1])) return "smollm";
  }
  refuse(path,
         fmt::format("cuts text into words by {}; GPT-2's and SmolLM's ways can be named in a GGUF", part.dump()));
}

std::string merge_text(const json& merge) {
  if (merge.is_string()) return merge.get<std::string>();
  return fmt::format("{} {}", merge.at(0).get<std::string>(), merge.at(1).get<std::string>());
}

GgufTokenizer from_tokenizer_json(const fs::path& folder) {
  const fs::path path = folder / "tokenizer.json";
  const json file = read_json_object(path);
  const json& model = file.at("model");
  if (model.value("byte_fallback", false))
    refuse(path, "is a SentencePiece vocabulary without its scores, which a GGUF needs: tokenizer.model is missing");
  if (model.value("ignore_merges", false)) refuse(path, "has ignore_merges, which llama.cpp can't be told of");
  GgufTokenizer gguf{.model = "gpt2", .pre = pre_tokenizer_name(file, path), .add_space_prefix = false};
  const auto size = static_cast<std::int64_t>(model.at("vocab").size());
  gguf.tokens.resize(static_cast<std::size_t>(size));
  gguf.types.assign(gguf.tokens.size(), kNormal);
  for (const auto& [token, id] : model.at("vocab").items()) {
    const auto index = id.get<std::int64_t>();
    if (index < 0 || index >= size || !gguf.tokens[static_cast<std::size_t>(index)].empty())
      refuse(path, fmt::format("numbers its tokens with gaps: \"{}\" is {} of {}", token, index, size));
    gguf.tokens[static_cast<std::size_t>(index)] = token;
  }
  for (const json& merge : model.at("merges")) gguf.merges.push_back(merge_text(merge));
  for (const json& token : file.value("added_tokens", json::array())) {
    const auto id = token.value("id", std::int64_t{-1});
    if (id >= 0 && id < size) gguf.types[static_cast<std::size_t>(id)] = kUserDefined;
    if (id >= 0 && id < size && token.value("special", false)) gguf.types[static_cast<std::size_t>(id)] = kControl;
  }
  return gguf;
}

/// A GGUF has exactly one token a row of the embeddings, and none twice.
void fill_up(GgufTokenizer& gguf, std::int64_t rows, const fs::path& path) {
  if (static_cast<std::int64_t>(gguf.tokens.size()) > rows)
    refuse(path, fmt::format("the tokenizer has {} tokens, the model only {} rows for them", gguf.tokens.size(), rows));
  for (auto id = static_cast<std::int64_t>(gguf.tokens.size()); id < rows; ++id) {
    gguf.tokens.push_back(fmt::format("[PAD{}]", id));
    if (!gguf.types.empty()) gguf.types.push_back(kUnused);
    if (!gguf.scores.empty()) gguf.scores.push_back(kPaddingScore);
  }
  std::unordered_set<std::string_view> seen;
  for (const std::string& token : gguf.tokens)
    if (!seen.insert(token).second) refuse(path, fmt::format("the tokenizer has the token \"{}\" twice", token));
}

std::optional<std::int32_t> id_of(const GgufTokenizer& gguf, std::string_view text) {
  const auto found = std::find(gguf.tokens.begin(), gguf.tokens.end(), text);
  if (found == gguf.tokens.end()) return std::nullopt;
  return static_cast<std::int32_t>(found - gguf.tokens.begin());
}

/// llama.cpp finds Code Llama's by these keys alone.
void name_infilling(GgufTokenizer& gguf) {
  if (!gguf.fim_pre_id) gguf.fim_pre_id = id_of(gguf, InfillingTokens::prefix);
  if (!gguf.fim_suf_id) gguf.fim_suf_id = id_of(gguf, InfillingTokens::suffix);
  if (!gguf.fim_mid_id) gguf.fim_mid_id = id_of(gguf, InfillingTokens::middle);
}

}  // namespace

GgufTokenizer tokenizer_for_gguf(const BaseModel& base) {
  GgufTokenizer gguf;
  if (base.is_gguf) {
    gguf = read_gguf_tokenizer(GgufFile(base.path));
  } else {
    const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(base.path);  // has checked every file
    const bool pieces = fs::is_regular_file(base.path / "tokenizer.model");
    gguf = pieces ? from_sentencepiece(base.path) : from_tokenizer_json(base.path);
    add_surroundings(*tokenizer, gguf);
  }
  fill_up(gguf, base.config.vocab_size, base.path);
  name_infilling(gguf);
  return gguf;
}

void name_end_of_turn(const ModelConfig& config, GgufTokenizer& tokenizer) {
  for (const std::int64_t id : config.eos_token_ids)
    if (!tokenizer.eot_id && id != tokenizer.eos_id) tokenizer.eot_id = static_cast<std::int32_t>(id);
  const std::string_view exact = recognise_template(tokenizer.chat_template);
  const std::string_view name = exact.empty() ? resembling_template(tokenizer.chat_template) : exact;
  const std::string_view end_of_turn = name.empty() ? "" : find_template(name).end_of_turn();
  for (const std::string_view text : {end_of_turn, InfillingTokens::end})
    if (const auto id = id_of(tokenizer, text); !tokenizer.eot_id && !text.empty() && id && id != tokenizer.eos_id)
      tokenizer.eot_id = id;
}

}  // namespace tune
