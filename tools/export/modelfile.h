#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoints/base_model.h"
#include "data/tokenizer/tokenizer.h"

namespace tune {

/// What `ollama create -f` makes a model of. Paths are relative to the Modelfile's folder.
struct Modelfile {
  std::vector<std::string> from;  // GGUF files: one model, maybe in parts
  std::string from_note;          // a comment above them
  std::string adapter;            // GGUF adapter on top of it; empty = none
  std::string chat_template;      // text for Go's text/template; empty = Ollama takes the GGUF's own
  std::vector<std::string> stop;
  std::int64_t num_ctx = 0;
  std::string license;  // a name; empty = not known
};

/// Its text, with a first line that tells it from other people's files.
std::string modelfile_text(const Modelfile& modelfile);

/// True for a file with that first line.
bool is_own_modelfile(const std::filesystem::path& path);

/// "exports/model-q8_0.gguf" -> "exports/model-q8_0.Modelfile".
std::filesystem::path modelfile_path(const std::filesystem::path& gguf);

/// The Jinja text as one for Ollama: given `.Messages`, it renders what the Jinja text renders with
/// add_generation_prompt, but for the BOS that llama.cpp puts in front (tokenizer.add_bos). Empty for a text that isn't
/// known to the last character, and for what can't be said in Go's templates: alpaca's second preamble.
/// White space around messages stays, which Llama 2 and Code Llama strip; Go's templates can't.
std::string ollama_template(std::string_view jinja, const Tokenizer& tokenizer);

/// Writes modelfile_path(gguf), atomically, for a model in `files` (the GGUF, or all of its parts) or, where there are
/// none, for the adapter `gguf` on top of `base`. chat_template: Jinja text; "" = the model's own; none = not known, so
/// that neither template nor ends of turns are named, and no tokenizer is needed.
void write_modelfile(const BaseModel& base, const std::optional<std::string>& chat_template,
                     const std::filesystem::path& gguf, const std::vector<std::filesystem::path>& files);

}  // namespace tune
