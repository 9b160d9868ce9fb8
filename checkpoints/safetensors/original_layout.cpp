#include "checkpoints/safetensors/original_layout.h"

#include <fmt/format.h>

#include <string>
#include <string_view>

#include "checkpoints/files/file_system.h"
#include "recipes/schema/error.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kNamePrefix = "consolidated.";
constexpr const char* kPublishedToo = "take the same model in Hugging Face layout (its folder has a config.json)";

std::int64_t count_files(const fs::path& folder, std::string_view extension) {
  std::int64_t count = 0;
  std::error_code unreadable;
  for (const auto& entry : fs::directory_iterator(folder, unreadable)) {
    const std::string name = entry.path().filename().string();
    count += name.starts_with(kNamePrefix) && name.ends_with(extension) ? 1 : 0;
  }
  return count;
}

// Mistral's params.json says hidden_dim (and moe) where Meta's has multiple_of.
bool is_mistrals(const fs::path& folder) {
  const fs::path file = folder / "params.json";
  return fs::is_regular_file(file) && read_text(file).find("\"hidden_dim\"") != std::string::npos;
}

std::string in_quotes(const fs::path& path) {
  std::string quoted = "'";
  for (const char letter : path.string()) quoted += letter == '\'' ? "'\\''" : std::string(1, letter);
  return quoted + "'";
}

// The last version of transformers whose package brings the scripts along.
std::string conversion(std::string_view script, const fs::path& folder, std::string_view options) {
  fs::path path = folder.lexically_normal();
  if (!path.has_filename() && path.has_parent_path()) path = path.parent_path();
  fs::path output = path;
  output += "-hf";
  return fmt::format(
      "python3 -m venv convert && convert/bin/pip install transformers==4.46.3 torch accelerate sentencepiece protobuf "
      "&& convert/bin/python -m transformers.models.{} --input_dir {} {} --output_dir {}",
      script, in_quotes(path), options, in_quotes(output));
}

std::string with_tokenizer(const fs::path& folder, const char* name, const std::string& command) {
  if (fs::exists(folder / name)) return "convert it once: " + command;
  return fmt::format("put its {} into the folder, then convert it once: {}", name, command);
}

}  // namespace

bool holds_original_layout(const fs::path& folder) {
  return count_files(folder, ".pth") > 0 || count_files(folder, ".safetensors") > 0;
}

void refuse_original_layout(const fs::path& folder) {
  const std::int64_t pickles = count_files(folder, ".pth");
  if (pickles == 0) {
    const std::string command = conversion("mistral.convert_mistral_weights_to_hf", folder,
                                           "--model_size 7B --is_v3 --safe_serialization True");
    throw Error{Fault::data,
                {folder.string()},
                "holds Mistral's own layout (consolidated.safetensors), whose tensors have other names and orders",
                fmt::format("{}, or {}", kPublishedToo, with_tokenizer(folder, "tokenizer.model.v3", command))};
  }
  const bool mistrals = is_mistrals(folder);
  const std::string what = fmt::format(
      "holds {}'s own layout ({} consolidated.*.pth), Python pickles, which can run programs when they are "
      "opened; only safetensors and GGUF are read",
      mistrals ? "Mistral" : "Meta", pickles);
  const std::string options = fmt::format("--num_shards {} --llama_version 2", pickles);
  throw Error{Fault::data,
              {folder.string()},
              what,
              mistrals ? kPublishedToo
                       : with_tokenizer(folder, "tokenizer.model",
                                        conversion("llama.convert_llama_weights_to_hf", folder, options))};
}

}  // namespace tune
