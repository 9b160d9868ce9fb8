#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "checkpoints/files/file_system.h"
#include "checkpoints/files/hash.h"
#include "checkpoints/files/json.h"
#include "data/tokenizer/added_tokens.h"
#include "data/tokenizer/gguf_tokenizer.h"
#include "data/tokenizer/json_member.h"
#include "data/tokenizer/sentencepiece.h"
#include "data/tokenizer/tokenizer_json.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kFiles[] = {"tokenizer.model",   "tokenizer.json",          "tokenizer_config.json",
                                  "added_tokens.json", "special_tokens_map.json", "chat_template.jinja"};

// All tokenizer files of the folder, with their names and lengths so that no two folders look alike.
std::string fingerprint_of(const fs::path& folder, bool is_llama_class) {
  std::string all = is_llama_class ? "LlamaTokenizer\n" : "";
  for (const char* file : kFiles) {
    if (!fs::is_regular_file(folder / file)) continue;
    const std::string bytes = read_text(folder / file);
    all += fmt::format("{} {}\n", file, bytes.size()) + bytes;
  }
  return xxh3_128(all);
}

json read_if_there(const fs::path& path) { return fs::is_regular_file(path) ? read_json_object(path) : json(); }

// An added token as the JSON files describe it: an object, or only its text.
AddedToken read_added_token(const json& value, std::int32_t id) {
  if (value.is_string()) return {.content = value.get<std::string>(), .id = id};
  return {.content = member_or<std::string>(value, "content", ""),
          .id = id,
          .special = member_or(value, "special", true),
          .lstrip = member_or(value, "lstrip", false),
          .rstrip = member_or(value, "rstrip", false),
          .single_word = member_or(value, "single_word", false),
          .normalized = member_or(value, "normalized", false)};
}

std::int32_t read_id(const std::string& text, const std::string& file) {
  std::int32_t id = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (status != std::errc{} || end != text.data() + text.size() || id < 0) {
    throw Error{Fault::data, Place{file}, fmt::format("\"{}\" isn't the id of an added token", text),
                "copy the file again from where the model was published"};
  }
  return id;
}

class FolderReader {
 public:
  explicit FolderReader(const fs::path& folder)
      : folder_(folder),
        config_(read_if_there(folder / "tokenizer_config.json")),
        special_(read_if_there(folder / "special_tokens_map.json")),
        model_config_(read_if_there(folder / "config.json")),
        is_llama_class_(is_llama_class()) {}

  std::unique_ptr<Tokenizer> read() {
    const fs::path model_file = folder_ / "tokenizer.model", json_file = folder_ / "tokenizer.json";
    if (fs::is_regular_file(model_file)) {
      read_sentencepiece(model_file, json_file);
    } else if (fs::is_regular_file(json_file)) {
      read_json(json_file);
    } else {
      throw Error{Fault::data, Place{folder_.string()}, "the folder has neither tokenizer.model nor tokenizer.json",
                  "copy the tokenizer's files into it from where the model was published"};
    }
    read_added_of_config();
    read_special_tokens();
    auto tokenizer = std::make_unique<TokenizerWithAddedTokens>(std::move(model_), std::move(added_));
    fill(*tokenizer);
    return tokenizer;
  }

 private:
  void read_sentencepiece(const fs::path& file, const fs::path& json_file) {
    SentencePieceModel model = read_sentencepiece_model(file);
    const auto name_special = [&](const char* key, std::int32_t id) {
      if (id >= 0) own_special_[key] = model.pieces[id].text;
    };
    name_special("unk_token", model.unk_id);
    name_special("bos_token", model.bos_id);
    name_special("eos_token", model.eos_id);
    name_special("pad_token", model.pad_id);
    // transformers looks for control and user-defined pieces in the text, too.
    for (std::size_t id = 0; id < model.pieces.size(); ++id) {
      const SentencePiece& piece = model.pieces[id];
      if (piece.type != PieceType::control && piece.type != PieceType::user_defined) continue;
      added_.push_back(
          {.content = piece.text, .id = static_cast<std::int32_t>(id), .special = piece.type == PieceType::control});
    }
    adds_bos_ = true;
    DummyPrefix prefix = dummy_prefix();
    if (fs::is_regular_file(json_file)) {
      TokenizerJsonRules rules = read_tokenizer_json_rules(json_file);
      for (AddedToken& token : rules.added) added_.push_back(std::move(token));
      if (!is_llama_class_) {
        prefix = rules.prefix.value_or(prefix);
        adds_bos_ = !rules.leading_tokens.empty();
      }
    }
    model_ = make_sentencepiece(std::move(model), prefix, file.string());
  }

  // As transformers' AutoTokenizer (5.23) chooses. LlamaTokenizer and CodeLlamaTokenizer take vocabulary and merges
  // from a tokenizer.json and put the dummy prefix by their own rules; every other class, and whichever a Mistral
  // names, does what a tokenizer.json says.
  bool is_llama_class() const {
    const auto type = member_or<std::string>(model_config_, "model_type", "");
    const std::string name = tokenizer_class();
    return type != "mistral" && type != "mixtral" &&
           (name == "LlamaTokenizer" || name == "LlamaTokenizerFast" || is_code_llama_class());
  }

  bool is_code_llama_class() const {
    const std::string name = tokenizer_class();
    return name == "CodeLlamaTokenizer" || name == "CodeLlamaTokenizerFast";
  }

  std::string tokenizer_class() const {
    return member_or(config_, "tokenizer_class", member_or<std::string>(model_config_, "tokenizer_class", ""));
  }

  // As transformers decides: `legacy` counts as false where the config doesn't say, and Code Llama's tokenizer doesn't
  // ask. Without any config the model's own rule holds, which is that of the files of those days.
  DummyPrefix dummy_prefix() const {
    if (!member_or(config_, "add_prefix_space", true)) return DummyPrefix::never;
    const bool legacy =
        config_.is_null() || (member_or(config_, "legacy", false) && !(is_llama_class_ && is_code_llama_class()));
    return legacy ? DummyPrefix::every_stretch : DummyPrefix::text_start;
  }

  void read_json(const fs::path& file) {
    TokenizerJson json = read_tokenizer_json(file, is_llama_class_ ? std::optional(dummy_prefix()) : std::nullopt);
    model_ = std::move(json.model);
    added_ = std::move(json.added);
    adds_bos_ = !json.leading_tokens.empty();
    if (adds_bos_) own_special_["bos_token"] = json.leading_tokens.front();
  }

  void read_added_of_config() {
    const std::string file = (folder_ / "tokenizer_config.json").string();
    for (const auto& [id, token] : member(config_, "added_tokens_decoder").items())
      added_.push_back(read_added_token(token, read_id(id, file)));
    const json more = read_if_there(folder_ / "added_tokens.json");
    for (const auto& [content, id] : more.items()) {
      const bool known = std::any_of(added_.begin(), added_.end(),
                                     [&text = content](const AddedToken& token) { return token.content == text; });
      if (!known && id.is_number_integer())
        added_.push_back({.content = content, .id = id.get<std::int32_t>(), .special = false, .normalized = true});
    }
  }

  std::string special_token(const std::string& key) const {
    for (const json* source : {&config_, &special_}) {
      const json& value = member(*source, key);
      if (!value.is_null()) return read_added_token(value, 0).content;
    }
    const auto own = own_special_.find(key);
    return own == own_special_.end() ? "" : own->second;
  }

  // Special tokens are looked for in the text even where no list of added tokens names them.
  void read_special_tokens() {
    for (const char* key : {"unk_token", "bos_token", "eos_token", "pad_token"})
      add_special(special_token(key), member(config_, key));
    for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
      const json& list = member(config_, key);
      if (!list.is_array()) continue;
      for (const json& token : list) add_special(read_added_token(token, 0).content, token);
    }
  }

  void add_special(const std::string& content, const json& description) {
    const auto known = std::find_if(added_.begin(), added_.end(),
                                    [&text = content](const AddedToken& token) { return token.content == text; });
    if (content.empty() || known != added_.end()) return;
    const auto id = model_->token_id(content);
    if (!id) return;
    AddedToken token =
        description.is_object() ? read_added_token(description, *id) : AddedToken{.content = content, .id = *id};
    token.special = true;
    added_.push_back(std::move(token));
  }

  std::string chat_template() const {
    if (fs::is_regular_file(folder_ / "chat_template.jinja")) return read_text(folder_ / "chat_template.jinja");
    const json& value = member(config_, "chat_template");
    if (value.is_string()) return value.get<std::string>();
    if (!value.is_array()) return "";
    for (const json& named : value) {
      if (member_or<std::string>(named, "name", "") == "default") return member_or<std::string>(named, "template", "");
    }
    return "";
  }

  void fill(Tokenizer& tokenizer) const {
    tokenizer.bos_token = special_token("bos_token");
    tokenizer.eos_token = special_token("eos_token");
    tokenizer.bos_id = tokenizer.token_id(tokenizer.bos_token);
    tokenizer.eos_id = tokenizer.token_id(tokenizer.eos_token);
    tokenizer.unk_id = tokenizer.token_id(special_token("unk_token"));
    tokenizer.pad_id = tokenizer.token_id(special_token("pad_token"));
    if (!tokenizer.eos_id) {
      throw Error{Fault::data, Place{folder_.string()},
                  fmt::format("the tokenizer's end-of-text token \"{}\" isn't in its vocabulary", tokenizer.eos_token),
                  "name one that is as eos_token in tokenizer_config.json"};
    }
    tokenizer.add_bos = member_or(config_, "add_bos_token", adds_bos_) && tokenizer.bos_id.has_value();
    tokenizer.chat_template = chat_template();
    tokenizer.fingerprint = fingerprint_of(folder_, is_llama_class_);
  }

  fs::path folder_;
  json config_, special_, model_config_;
  bool is_llama_class_;
  std::unique_ptr<TextModel> model_;
  std::vector<AddedToken> added_;
  std::map<std::string, std::string> own_special_;  // what the model itself says, where no config does
  bool adds_bos_ = false;
};

}  // namespace

std::unique_ptr<Tokenizer> open_tokenizer(const fs::path& model) {
  if (fs::is_directory(model)) return FolderReader(model).read();
  if (fs::is_regular_file(model)) return open_gguf_tokenizer(model);
  throw Error{Fault::data, Place{model.string()}, "there is no such folder or file",
              "give a model's folder in Hugging Face layout or a .gguf file"};
}

}  // namespace tune
