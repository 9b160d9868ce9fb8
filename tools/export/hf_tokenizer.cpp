#include "tools/export/hf_tokenizer.h"

#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>

#include "checkpoints/files/atomic_file.h"
#include "checkpoints/files/json.h"
#include "checkpoints/gguf/tokenizer.h"
#include "data/tokenizer/sentencepiece_model.h"
#include "recipes/schema/error.h"
#include "tools/export/tokenizer_json.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

constexpr const char* kConfigFile = "tokenizer_config.json";
constexpr const char* kTemplateFile = "chat_template.jinja";

/// transformers prefers chat_template.jinja; others read tokenizer_config.json: there must not be two templates.
void replace_template(const std::string& chat_template, const fs::path& folder) {
  write_atomically(folder / kTemplateFile, chat_template);
  if (!fs::exists(folder / kConfigFile)) return;
  const std::string text = read_text(folder / kConfigFile);
  if (!parse_json_object(text, kConfigFile).contains("chat_template")) return;
  auto config = nlohmann::ordered_json::parse(text);
  config.erase("chat_template");
  write_atomically(folder / kConfigFile, config.dump(2) + "\n");
}

void copy_files(const fs::path& from, const fs::path& to) {
  for (const char* name : {"tokenizer.model", "tokenizer.json", kConfigFile, "special_tokens_map.json",
                           "added_tokens.json", "vocab.json", "merges.txt", kTemplateFile})
    if (fs::is_regular_file(from / name)) duplicate_file(from / name, to / name);
}

nlohmann::ordered_json tokenizer_config(const GgufTokenizer& gguf, std::int64_t max_length) {
  nlohmann::ordered_json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                                   {"add_bos_token", gguf.add_bos},
                                   {"add_eos_token", false},
                                   {"add_prefix_space", gguf.add_space_prefix},
                                   {"clean_up_tokenization_spaces", false},
                                   {"model_max_length", max_length}};
  if (gguf.model == "llama") config["legacy"] = true;  // llama.cpp puts a space behind every special token
  const auto name = [&](const char* key, const std::optional<std::int32_t>& id) {
    if (id) config[key] = gguf.tokens[static_cast<std::size_t>(*id)];
  };
  name("bos_token", gguf.bos_id);
  name("eos_token", gguf.eos_id);
  name("unk_token", gguf.unk_id);
  name("pad_token", gguf.pad_id);
  return config;
}

/// File names and texts.
std::map<std::string, std::string> files_of_gguf(const BaseModel& base) {
  const std::string where = base.path.string();
  const GgufTokenizer gguf = read_gguf_tokenizer(GgufFile(base.path));
  std::map<std::string, std::string> files;
  try {
    files["tokenizer.json"] = tokenizer_json(gguf, where);
    files[kConfigFile] = tokenizer_config(gguf, base.config.max_position_embeddings).dump(2) + "\n";
  } catch (const nlohmann::json::exception&) {
    throw Error{
        Fault::data, {where}, "has a tokenizer whose tokens are no valid UTF-8", "use another copy of the model"};
  }
  if (gguf.model == "llama") files["tokenizer.model"] = sentencepiece_bytes(gguf, where);
  if (!gguf.chat_template.empty()) files[kTemplateFile] = gguf.chat_template;
  return files;
}

}  // namespace

void write_tokenizer_files(const BaseModel& base, const std::string& chat_template, const fs::path& folder) {
  if (base.is_gguf)
    for (const auto& [name, text] : files_of_gguf(base)) write_atomically(folder / name, text);
  else
    copy_files(base.path, folder);
  if (!chat_template.empty()) replace_template(chat_template, folder);
}

void check_tokenizer_files(const BaseModel& base) {
  if (base.is_gguf) files_of_gguf(base);
}

}  // namespace tune
