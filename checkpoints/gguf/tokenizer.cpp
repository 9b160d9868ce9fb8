#include "checkpoints/gguf/tokenizer.h"

#include <fmt/format.h>

#include "recipes/schema/error.h"

namespace tune {

GgufTokenizer read_gguf_tokenizer(const GgufFile& file) {
  const auto key = [](const char* name) { return std::string("tokenizer.ggml.") + name; };
  GgufTokenizer tokenizer;
  tokenizer.model = file.text(key("model"));
  tokenizer.pre = file.text(key("pre"), "default");
  tokenizer.tokens = file.texts(key("tokens"));
  if (file.has(key("scores")))
    for (const double score : file.numbers(key("scores"))) tokenizer.scores.push_back(static_cast<float>(score));
  if (file.has(key("token_type")))
    for (const double type : file.numbers(key("token_type"))) tokenizer.types.push_back(static_cast<std::int32_t>(type));
  if (file.has(key("merges"))) tokenizer.merges = file.texts(key("merges"));
  for (const std::size_t size : {tokenizer.scores.size(), tokenizer.types.size()})
    if (size != 0 && size != tokenizer.tokens.size())
      throw Error{Fault::data, {file.path().string()},
                  fmt::format("{} tokens, but {} scores or types", tokenizer.tokens.size(), size), "convert the model again"};
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
  tokenizer.add_bos = file.boolean(key("add_bos_token"), tokenizer.model == "llama");
  tokenizer.add_space_prefix = file.boolean(key("add_space_prefix"), true);
  tokenizer.chat_template = file.text("tokenizer.chat_template", "");
  return tokenizer;
}

}  // namespace tune
