#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "checkpoints/base_model.h"
#include "checkpoints/gguf/model.h"
#include "checkpoints/onnx/model.h"
#include "checkpoints/peft/adapter_folder.h"
#include "checkpoints/safetensors/pickle.h"
#include "checkpoints/training/manifest.h"
#include "checkpoints/training/retention.h"
#include "data/tokenizer/tokenizer.h"
#include "recipes/schema/error.h"
#include "tools/verbs/arguments.h"
#include "tools/verbs/checksums.h"
#include "tools/verbs/finding.h"
#include "tools/verbs/stages.h"
#include "tools/verbs/verbs.h"

namespace tune {

namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

void add_sizes(const ModelConfig& config, Finding& finding) {
  finding.facts.insert(finding.facts.end(), {{"model_type", config.model_type},
                                             {"num_hidden_layers", config.num_hidden_layers},
                                             {"hidden_size", config.hidden_size},
                                             {"intermediate_size", config.intermediate_size},
                                             {"num_attention_heads", config.num_attention_heads},
                                             {"num_key_value_heads", config.num_key_value_heads},
                                             {"vocab_size", config.vocab_size},
                                             {"max_position_embeddings", config.max_position_embeddings},
                                             {"sliding_window", config.sliding_window},
                                             {"tie_word_embeddings", config.tie_word_embeddings}});
}

/// Empty, too, where weights lie without a tokenizer.
std::string template_of(const fs::path& model) {
  try {
    return open_tokenizer(model)->chat_template;
  } catch (const Error&) {
    return "";
  }
}

Finding of_model(const fs::path& path) {
  const BaseModel base = open_base_model(path);
  Finding finding{.kind = "model, Hugging Face folder", .tensors = base.weights->tensors()};
  add_sizes(base.config, finding);
  finding.facts.emplace_back("chat_template", template_of(base.path));
  return finding;
}

// Any GGUF: a model that we could tune, an adapter, or something that we can only list.
Finding of_gguf(const fs::path& path) {
  const GgufFile file(path);
  const std::string type = file.text("general.type", "model");
  const bool adapter = type == "adapter";
  Finding finding{.kind = adapter ? "adapter, GGUF" : type == "imatrix" ? "importance matrix, GGUF" : "model, GGUF"};
  if (file.has("imatrix.datasets")) finding.facts.emplace_back("imatrix.datasets", file.texts("imatrix.datasets"));
  for (const char* key : {"general.name", "general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.pre"})
    if (file.has(key)) finding.facts.emplace_back(key, file.text(key));
  if (adapter && file.has("adapter.lora.alpha"))
    finding.facts.emplace_back("adapter.lora.alpha", file.real("adapter.lora.alpha"));
  const bool readable = std::all_of(file.tensors().begin(), file.tensors().end(),
                                    [](const GgufTensor& tensor) { return is_readable(tensor.type); });
  if (!adapter && file.text("general.architecture", "") == "llama") {
    add_sizes(readable ? open_base_model(path).config : read_gguf_model_config(file), finding);
    finding.facts.emplace_back("can_be_tuned", readable);
  }
  std::map<std::string, std::uint64_t> bytes;
  double bits = 0, numbers = 0;
  for (const GgufTensor& tensor : file.tensors()) {
    bytes[traits_of(tensor.type)->name] += tensor.bytes.size();
    bits += 8 * static_cast<double>(tensor.bytes.size());
    numbers += static_cast<double>(element_count({{}, {}, tensor.shape}));
  }
  finding.facts.emplace_back("bytes", bytes);
  if (numbers > 0) finding.facts.emplace_back("bits_per_weight", std::round(bits / numbers * 100) / 100);
  finding.facts.emplace_back("chat_template", file.text("tokenizer.chat_template", ""));
  for (const GgufTensor& tensor : file.tensors())
    finding.tensors.push_back({tensor.name, traits_of(tensor.type)->name, tensor.shape});
  return finding;
}

Finding of_safetensors(const fs::path& path) {
  const SafetensorsFile file(path);
  Finding finding{.kind = "safetensors", .tensors = file.tensors()};
  for (const auto& [key, value] : file.metadata()) finding.facts.emplace_back("metadata " + key, value);
  return finding;
}

Finding of_adapter(const fs::path& folder) {
  const AdapterFolder adapter(folder);
  const AdapterConfig& config = adapter.config();
  return {.kind = "adapter, PEFT folder",
          .facts = {{"base_model", config.base_model_name_or_path},
                    {"lora_r", config.r},
                    {"lora_alpha", config.lora_alpha},
                    {"use_rslora", config.use_rslora},
                    {"use_dora", config.use_dora},
                    {"rank_pattern", config.rank_pattern},
                    {"alpha_pattern", config.alpha_pattern},
                    {"modules_to_save", config.modules_to_save},
                    {"trainable_token_indices", config.trainable_token_indices},
                    {"lora_target_modules", config.target_modules}},
          .tensors = adapter.tensors()};
}

Finding of_checkpoint(const fs::path& folder) {
  const Manifest manifest = read_manifest(folder);
  check_files(folder, manifest);
  Finding finding{.kind = "checkpoint", .facts = {{"step", manifest.step}}};
  for (const ManifestFile& file : manifest.files) {
    finding.facts.emplace_back(file.name, fmt::format("{} bytes, xxh3 {}", file.size_bytes, file.xxh3_128));
    if (!file.name.ends_with(".safetensors")) continue;
    const SafetensorsFile stored(folder / file.name);
    finding.tensors.insert(finding.tensors.end(), stored.tensors().begin(), stored.tensors().end());
  }
  return finding;
}

// A run's folder: its checkpoints, each checked.
Finding of_run(const fs::path& folder) {
  Finding finding{.kind = "run"};
  for (const auto& [step, checkpoint] : list_checkpoints(folder)) {
    check_files(checkpoint, read_manifest(checkpoint));
    finding.facts.emplace_back(checkpoint.filename().string(), "whole");
  }
  for (const char* name : {"final", "export"})
    if (fs::is_directory(folder / name)) finding.facts.emplace_back(name, (folder / name).string());
  return finding;
}

// The same of a recipe's stages.
Finding of_stages(const std::map<std::int64_t, fs::path>& stages) {
  Finding finding{.kind = fmt::format("run of {} stages", stages.size())};
  for (const auto& [number, folder] : stages)
    for (const auto& [name, value] : of_run(folder).facts)
      finding.facts.emplace_back((folder.filename() / name).string(), value);
  return finding;
}

// A folder may hold both kinds of model; transformers' is looked at then, ONNX when its file is named.
Finding inspect_folder(const fs::path& folder) {
  if (fs::exists(folder / kManifestFile)) return of_checkpoint(folder);
  if (fs::exists(folder / kAdapterConfigFile)) return of_adapter(folder);
  if (fs::exists(folder / "recipe.yaml") && !fs::exists(folder / "config.json")) return of_run(folder);
  if (const auto stages = stage_folders(folder); !stages.empty()) return of_stages(stages);
  if (holds_only_onnx(folder)) return inspect_onnx(folder);
  return of_model(folder);  // or the error that says what is there instead
}

Finding inspect(const fs::path& path) {
  std::error_code unreadable;
  if (!fs::exists(path, unreadable))
    throw Error{Fault::data, {path.string()}, "there is no such folder or file", "check the path"};
  if (fs::is_directory(path)) return inspect_folder(path);
  const MappedFile file(path);
  if (looks_like_pickle(file.bytes())) refuse_pickle(path);
  const std::string_view bytes(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  if (path.extension() == ".gguf" || bytes.starts_with("GGUF")) return of_gguf(path);
  if (path.extension() == ".safetensors") return of_safetensors(path);
  if (path.extension() == ".onnx") return inspect_onnx(path);
  throw Error{Fault::data,
              {path.string()},
              "is neither safetensors nor GGUF nor ONNX",
              "give a .safetensors, .gguf or .onnx file, or a model, adapter, checkpoint or run folder"};
}

/// Nothing where numbers lie packed in tensors of another type.
std::optional<std::int64_t> parameters(const Finding& finding) {
  if (!finding.tensor_bytes.empty()) return std::nullopt;
  std::int64_t sum = 0;
  for (const TensorInfo& tensor : finding.tensors) sum += element_count(tensor);
  return sum;
}

std::map<std::string, std::int64_t> tensors_by_type(const Finding& finding) {
  std::map<std::string, std::int64_t> counts;
  for (const TensorInfo& tensor : finding.tensors) ++counts[tensor.dtype];
  return counts;
}

void print_json(const fs::path& path, const Finding& finding, const std::vector<Checksum>& checksums) {
  ordered_json json = {{"path", path.string()}, {"kind", finding.kind}, {"intact", true}};
  for (const auto& [key, value] : finding.facts) json[key] = value;
  if (const auto count = parameters(finding)) json["parameters"] = *count;
  json["tensors"] = ordered_json::array();
  for (std::size_t i = 0; i < finding.tensors.size(); ++i) {
    const auto& [name, dtype, shape] = finding.tensors[i];
    ordered_json tensor = {{"name", name}, {"dtype", dtype}, {"shape", shape}};
    if (!finding.tensor_bytes.empty()) tensor["bytes"] = finding.tensor_bytes[i];
    json["tensors"].push_back(std::move(tensor));
  }
  for (const auto& [name, bytes, xxh3] : checksums)
    json["checksums"].push_back({{"name", name}, {"bytes", bytes}, {"xxh3", xxh3}});
  fmt::print("{}\n", json.dump(2, ' ', false, ordered_json::error_handler_t::replace));
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

/// A list, or a text of several lines, has a line for each.
std::string fact_text(const ordered_json& value) {
  std::vector<std::string> lines;
  if (value.is_string())
    lines = lines_of(value.get<std::string>());
  else if (value.is_array() && !value.empty() && value.front().is_string())
    lines = value.get<std::vector<std::string>>();
  else
    return value.dump();
  return lines.empty() ? "none" : fmt::format("{}", fmt::join(lines, fmt::format("\n{:30}", "")));
}

void print_tensors(const Finding& finding, bool all) {
  if (finding.tensors.empty()) return;
  std::vector<std::string> counts;
  for (const auto& [type, count] : tensors_by_type(finding)) counts.push_back(fmt::format("{} {}", count, type));
  if (const auto count = parameters(finding)) fmt::print("  {:<28}{}\n", "parameters", *count);
  fmt::print("  {:<28}{} ({})\n", "tensors", finding.tensors.size(), fmt::join(counts, ", "));
  if (!all) return;
  for (std::size_t i = 0; i < finding.tensors.size(); ++i) {
    const auto& [name, dtype, shape] = finding.tensors[i];
    const std::string bytes = finding.tensor_bytes.empty() ? "" : fmt::format(", {} bytes", finding.tensor_bytes[i]);
    fmt::print("    {:<10}{:<60}[{}]{}\n", dtype, name, fmt::join(shape, ", "), bytes);
  }
}

void print_text(const fs::path& path, const Finding& finding, bool all, const std::vector<Checksum>& checksums) {
  fmt::print("{}: {}, whole\n", path.string(), finding.kind);
  for (const auto& [key, value] : finding.facts) fmt::print("  {:<28}{}\n", key, fact_text(value));
  print_tensors(finding, all);
  for (const auto& [name, bytes, xxh3] : checksums) fmt::print("  {}  {:>12}  {}\n", xxh3, bytes, name);
}

}  // namespace

int inspect_verb(const std::vector<std::string>& arguments) {
  namespace po = boost::program_options;
  po::options_description options("Options");
  options.add_options()("json", "everything, as one JSON object on stdout")("tensors", "list each tensor")(
      "checksums", "read it all, and list XXH3 checksums of the files and of a file's tensors");
  std::vector<std::string> flags, paths;
  for (const std::string& argument : arguments) (argument.starts_with("-") ? flags : paths).push_back(argument);
  po::variables_map values;
  if (!parse_arguments(flags, "inspect", "Says what a file or folder holds, and whether it is whole.",
                       "tune inspect runs/quickstart/checkpoint-100", options, values))
    return 0;
  if (paths.size() != 1)
    throw Error{
        Fault::recipe, {}, fmt::format("inspect wants one path, got {}", paths.size()), "see tune inspect --help"};
  const fs::path path = paths.front();
  const Finding finding = inspect(path);
  std::vector<Checksum> checksums;
  if (values.count("checksums") != 0) checksums = checksums_of(path);
  if (values.count("json") != 0)
    print_json(path, finding, checksums);
  else
    print_text(path, finding, values.count("tensors") != 0, checksums);
  return 0;
}

}  // namespace tune
