#include "checkpoints/gguf/tokenizer.h"

#include <fmt/format.h>

#include "recipes/schema/error.h"

namespace tune {

namespace {

std::string key(const char* name) { return std::string("tokenizer.ggml.") + name; }

void check_length(const GgufFile& file, const char* list, std::size_t length, std::size_t tokens) {
  if (length == 0 || length == tokens) return;
  throw Error{Fault::data,
              {file.path().string()},
              fmt::format("has {} tokens, but {} {}", tokens, length, list),
              "convert the model again"};
}

}  // namespace

GgufTokenizer read_gguf_tokenizer(const GgufFile& file) {
  GgufTokenizer tokenizer;
  tokenizer.model = file.text(key("model"));
  tokenizer.pre = file.text(key("pre"), "default");
  tokenizer.tokens = file.texts(key("tokens"));
  if (file.has(key("scores")))
    for (const double score : file.numbers(key("scores"))) tokenizer.scores.push_back(static_cast<float>(score));
  if (file.has(key("token_type")))
    for (const double type : file.numbers(key("token_type")))
      tokenizer.types.push_back(type >= 1 && type <= 6 ? static_cast<std::int32_t>(type) : 0);
  if (file.has(key("merges"))) tokenizer.merges = file.texts(key("merges"));
  check_length(file, "scores", tokenizer.scores.size(), tokenizer.tokens.size());
  check_length(file, "token types", tokenizer.types.size(), tokenizer.tokens.size());
  const auto id = [&](const char* name) -> std::optional<std::int32_t> {
    if (!file.has(key(name))) return std::nullopt;
    const std::int64_t value = file.integer(key(name));
    if (value < 0 || value >= static_cast<std::int64_t>(tokenizer.tokens.size())) return std::nullopt;
    return static_cast<std::int32_t>(value);
  };
  tokenizer.bos_id = id("bos_token_id");
  tokenizer.eos_id = id("eos_token_id");
  tokenizer.eot_id = id("eot_token_id");
  tokenizer.unk_id = id("unknown_token_id");
  tokenizer.pad_id = id("padding_token_id");
  tokenizer.fim_pre_id = id("fim_pre_token_id");
  tokenizer.fim_suf_id = id("fim_suf_token_id");
  tokenizer.fim_mid_id = id("fim_mid_token_id");
  tokenizer.add_bos = file.boolean(key("add_bos_token"), tokenizer.model == "llama");
  tokenizer.add_space_prefix = file.boolean(key("add_space_prefix"), tokenizer.model == "llama");
  tokenizer.chat_template = file.text("tokenizer.chat_template", "");
  return tokenizer;
}

void append_gguf_tokenizer(const GgufTokenizer& tokenizer, GgufMetadata& metadata) {
  const auto add = [&](const char* name, GgufValue value) { metadata.emplace_back(key(name), std::move(value)); };
  add("model", tokenizer.model);
  add("pre", tokenizer.pre);
  add("tokens", tokenizer.tokens);
  if (!tokenizer.scores.empty()) add("scores", tokenizer.scores);
  if (!tokenizer.types.empty()) add("token_type", tokenizer.types);
  if (!tokenizer.merges.empty()) add("merges", tokenizer.merges);
  const auto add_id = [&](const char* name, std::optional<std::int32_t> id) {
    if (id) add(name, static_cast<std::uint32_t>(*id));
  };
  add_id("bos_token_id", tokenizer.bos_id);
  add_id("eos_token_id", tokenizer.eos_id);
  add_id("eot_token_id", tokenizer.eot_id);
  add_id("unknown_token_id", tokenizer.unk_id);
  add_id("padding_token_id", tokenizer.pad_id);
  add_id("fim_pre_token_id", tokenizer.fim_pre_id);
  add_id("fim_suf_token_id", tokenizer.fim_suf_id);
  add_id("fim_mid_token_id", tokenizer.fim_mid_id);
  add("add_bos_token", tokenizer.add_bos);
  add("add_eos_token", false);
  add("add_space_prefix", tokenizer.add_space_prefix);
  if (!tokenizer.chat_template.empty()) metadata.emplace_back("tokenizer.chat_template", tokenizer.chat_template);
}

}  // namespace tune
