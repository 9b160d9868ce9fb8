#include "tools/export/modelfile.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>

#include "checkpoints/files/atomic_file.h"
#include "data/templates/default_system_turn.h"
#include "data/templates/own_template.h"
#include "data/templates/template.h"
#include "tools/export/model_card.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kMark = "# Written by tune export: ollama create NAME -f ";

// A Modelfile has no escapes: a value ends with its line, or where its quotes do.
std::string in_quotes(std::string_view text) { return fmt::format("\"\"\"{}\"\"\"", text); }

/// Whether a text that isn't ours can stand in a template between two of its actions, in a Modelfile.
bool is_plain(std::string_view text) {
  return text.find("{{") == std::string_view::npos && text.find("\"\"\"") == std::string_view::npos;
}

// Collected on the way to the first user's message, with which they are sent.
constexpr std::string_view kLlama2 =
    R"({{ $system := "" }}{{ $bos := "<first>" }}{{ range .Messages }}{{ if eq .Role "system" }})"
    R"({{ $system = printf "<<SYS>>\n%s\n<</SYS>>\n\n" .Content }}{{ else if eq .Role "user" }})"
    R"({{ $bos }}[INST] {{ $system }}{{ .Content }} [/INST]{{ $system = "" }}{{ $bos = "<bos>" }})"
    R"({{ else }} {{ .Content }} <eos>{{ end }}{{ end }})";

// [INST] without the space that Mistral's text may have in front of it: llama.cpp puts one behind special tokens.
constexpr std::string_view kMistral =
    R"(<first>{{ $system := "" }}{{ range .Messages }}{{ if eq .Role "system" }}{{ $system = printf "%s\n\n" .Content }})"
    R"({{ else if eq .Role "user" }}[INST] {{ $system }}{{ .Content }} [/INST]{{ $system = "" }})"
    R"({{ else }} {{ .Content }}<eos>{{ end }}{{ end }})";

constexpr std::string_view kZephyr = R"({{ range .Messages }}<|{{ .Role }}|>
{{ .Content }}<eos>
{{ end }}<|assistant|>
)";

constexpr std::string_view kSolar =
    R"({{ range .Messages }}{{ if eq .Role "system" }}{{ if .Content }}### System:
{{ .Content }}

{{ end }}{{ else if eq .Role "user" }}### User:
{{ .Content }}

{{ else }}### Assistant:
{{ .Content }}<eos>{{ end }}{{ end }}### Assistant:
)";

constexpr std::string_view kCodeLlama70b = R"(<first>{{ range .Messages }}Source: {{ .Role }}

 {{ .Content }} <step> {{ end }}Source: assistant
Destination: user

 )";

constexpr std::string_view kChatml =
    R"({{ range $i, $message := .Messages }}<default><|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
)";
constexpr std::string_view kDefaultSystemTurn = R"({{{{ if and (eq $i 0) (ne .Role "system") }}}}{}{{{{ end }}}})";

std::string_view text_of(std::string_view name) {
  if (name == "llama2" || name == "codellama") return kLlama2;
  if (name == "mistral") return kMistral;
  if (name == "zephyr") return kZephyr;
  if (name == "solar") return kSolar;
  if (name == "codellama-70b") return kCodeLlama70b;
  if (name == "chatml") return kChatml;
  return "";
}

std::string replaced(std::string text, std::string_view what, std::string_view with) {
  for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += with.size())
    text.replace(at, what.size(), with);
  return text;
}

/// What ends a turn, as the model's configuration and its format have them.
std::vector<std::string> ends_of_turn(const ModelConfig& config, std::string_view jinja, const Tokenizer& tokenizer) {
  const std::string_view exact = recognise_template(jinja);
  const std::string_view name = exact.empty() ? resembling_template(jinja) : exact;
  std::vector<std::string> texts = {tokenizer.eos_token};
  for (const std::int64_t id : config.eos_token_ids)
    texts.push_back(tokenizer.token_text(static_cast<std::int32_t>(id)));
  if (!name.empty()) texts.emplace_back(find_template(name).end_of_turn());
  std::vector<std::string> ends;
  for (std::string& text : texts)
    if (!text.empty() && std::find(ends.begin(), ends.end(), text) == ends.end()) ends.push_back(std::move(text));
  return ends;
}

std::int64_t longest_context(const ModelConfig& config) {  // llama.cpp has no window
  if (config.sliding_window == 0) return config.max_position_embeddings;
  return std::min(config.max_position_embeddings, config.sliding_window);
}

std::string local(const fs::path& file) { return "./" + file.filename().string(); }

}  // namespace

std::string modelfile_text(const Modelfile& modelfile) {
  std::string text = fmt::format("{}MODELFILE\n", kMark);
  if (!modelfile.from_note.empty()) text += fmt::format("# {}\n", modelfile.from_note);
  for (const std::string& file : modelfile.from) text += fmt::format("FROM {}\n", file);
  if (!modelfile.adapter.empty()) text += fmt::format("ADAPTER {}\n", modelfile.adapter);
  if (!modelfile.chat_template.empty()) text += fmt::format("TEMPLATE {}\n", in_quotes(modelfile.chat_template));
  for (const std::string& stop : modelfile.stop) text += fmt::format("PARAMETER stop \"{}\"\n", stop);
  text += fmt::format("PARAMETER num_ctx {}\n", modelfile.num_ctx);
  if (!modelfile.license.empty()) text += fmt::format("LICENSE {}\n", in_quotes(modelfile.license));
  return text;
}

bool is_own_modelfile(const fs::path& path) {
  std::string begin(kMark.size(), '\0');  // no more: it may be anything, of any size
  std::ifstream(path).read(begin.data(), static_cast<std::streamsize>(begin.size()));
  return begin == kMark;
}

fs::path modelfile_path(const fs::path& gguf) {
  const fs::path name = gguf.extension() == ".gguf" ? gguf.stem() : gguf.filename();
  return gguf.parent_path() / (name.string() + ".Modelfile");
}

std::string ollama_template(std::string_view jinja, const Tokenizer& tokenizer) {
  const std::string first = tokenizer.add_bos ? "" : tokenizer.bos_token;
  const DefaultSystemTurn system = default_system_turn(jinja);
  if (system.unclear || !is_plain(system.text)) return "";
  const std::string default_turn = system.text.empty() ? "" : fmt::format(kDefaultSystemTurn, system.text);
  std::string text(text_of(equivalent_template(jinja)));
  text = replaced(std::move(text), "<first>", first);
  text = replaced(std::move(text), "<bos>", tokenizer.bos_token);
  text = replaced(std::move(text), "<eos>", tokenizer.eos_token);
  return replaced(std::move(text), "<default>", default_turn);
}

void write_modelfile(const BaseModel& base, const std::optional<std::string>& chat_template, const fs::path& gguf,
                     const std::vector<fs::path>& files) {
  const CardFacts licence = licence_of(base);
  Modelfile modelfile{.num_ctx = longest_context(base.config),
                      .license = licence.license_name.empty() ? licence.license : licence.license_name};
  if (chat_template) {
    const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(base.path);
    const std::string& jinja = chat_template->empty() ? tokenizer->chat_template : *chat_template;
    modelfile.chat_template = ollama_template(jinja, *tokenizer);
    modelfile.stop = ends_of_turn(base.config, jinja, *tokenizer);
  }
  for (const fs::path& file : files) modelfile.from.push_back(local(file));
  if (files.size() > 1) modelfile.from_note = "A model in parts needs Ollama 0.30 or later.";
  if (files.empty()) {
    const std::string name = name_of(base.path);
    modelfile.from = {fmt::format("./{}.gguf", name)};
    modelfile.from_note = fmt::format("{} without the adapter, as GGUF: put it here, or write where it is.", name);
    modelfile.adapter = local(gguf);
  }
  write_atomically(modelfile_path(gguf), modelfile_text(modelfile));
}

}  // namespace tune
