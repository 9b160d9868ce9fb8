#include "tools/export/model_card.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <vector>

#include "checkpoints/files/file_system.h"
#include "checkpoints/gguf/gguf.h"
#include "recipes/schema/document.h"
#include "recipes/schema/error.h"
#include "recipes/schema/reader.h"
#include "recipes/schema/spelling.h"

namespace tune {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

namespace {

std::string quoted(const std::string& text) {  // a JSON string is one of YAML, too
  return ordered_json(text).dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

std::string front_matter_of(const ExportOptions& options, const ExportSource& source, const CardFacts& licence,
                            const std::string& base_name) {
  std::string text = fmt::format("---\nbase_model: {}\n", quoted(base_name));
  if (source.adapter)
    text += fmt::format("base_model_relation: {}\n", is_adapter(options.format) ? "adapter" : "finetune");
  if (!licence.license.empty()) text += fmt::format("license: {}\n", quoted(licence.license));
  if (!licence.license_name.empty()) text += fmt::format("license_name: {}\n", quoted(licence.license_name));
  if (!licence.license_link.empty()) text += fmt::format("license_link: {}\n", quoted(licence.license_link));
  if (options.format != ExportFormat::onnx)
    text += fmt::format("library_name: {}\n", options.format == ExportFormat::adapter ? "peft" : "transformers");
  return text + "pipeline_tag: text-generation\n---\n";
}

std::string opening(const ExportOptions& options, const ExportSource& source, const std::string& name) {
  if (options.format == ExportFormat::adapter) return fmt::format("A LoRA adapter of {}.\n", name);
  const std::string how = source.adapter               ? " with a LoRA adapter merged into it"
                          : source.recipe_file.empty() ? ", unchanged"
                                                       : ", all of its weights trained";
  const std::string numbers = options.quant ? fmt::format(" Weights in {}.", spelling(*options.quant)) : "";
  return fmt::format("{}{}.{}\n", name, how, numbers);
}

std::string training_of(const Recipe& recipe) {
  const TrainOptions& train = recipe.train;
  std::string text = "\n## Training\n\n| | |\n|---|---|\n";
  const auto row = [&](std::string_view name, const std::string& value) {
    text += fmt::format("| {} | {} |\n", name, value);
  };
  row("stage", std::string(spelling(recipe.stage)));
  if (has_adapter(recipe.adapter))
    row(fmt::format("{}{}", recipe.adapter.type == AdapterType::qlora ? "QLoRA (base in NF4)" : "LoRA",
                    recipe.adapter.use_dora ? " with DoRA" : ""),
        fmt::format("rank {}, alpha {:g}, dropout {:g} on {}", recipe.adapter.lora_r, recipe.adapter.lora_alpha,
                    recipe.adapter.lora_dropout, fmt::join(recipe.adapter.lora_target_modules, ", ")));
  else
    row("weights", "all of them");
  if (recipe.stage == Stage::sft) row("chat template", recipe.data.chat_template);
  row("learning rate", fmt::format("{:g}, {}", train.learning_rate, spelling(train.lr_scheduler_type)));
  row("batch", fmt::format("{} rows of up to {} tokens", train.global_batch_size, recipe.data.max_length));
  row("length", train.max_steps > 0 ? fmt::format("{} steps", train.max_steps)
                                    : fmt::format("{:g} epochs", train.num_train_epochs));
  row("precision", std::string(spelling(train.precision)));
  std::vector<std::string> files;
  for (const DatasetOptions& data : recipe.data.datasets) files.push_back(fs::path(data.path).filename().string());
  row("data", fmt::format("{}", fmt::join(files, ", ")));
  return text;
}

/// The first and the last evaluation of the run; nothing where it had none. Of pairs, how often the chosen answer has
/// the higher reward; else the perplexity.
std::string evaluation_of(const fs::path& metrics) {
  if (!fs::is_regular_file(metrics)) return "";
  std::vector<ordered_json> evaluations;
  std::istringstream lines(read_text(metrics));
  for (std::string line; std::getline(lines, line);) {
    ordered_json json = ordered_json::parse(line, nullptr, false);
    if (json.is_object() && json.contains("eval_loss")) evaluations.push_back(std::move(json));
  }
  if (evaluations.empty()) return "";
  constexpr const char* kAccuracy = "eval_rewards/accuracies";
  const bool pairs = evaluations.front().contains(kAccuracy);
  std::string text =
      fmt::format("\n## Evaluation\n\nOn rows that were held out:\n\n| step | loss | {} |\n|---|---|---|\n",
                  pairs ? "chosen above rejected" : "perplexity");
  if (evaluations.size() > 1) evaluations.erase(evaluations.begin() + 1, evaluations.end() - 1);
  for (const ordered_json& line : evaluations) {
    const double loss = line["eval_loss"];
    text += fmt::format(
        "| {} | {:.4f} | {} |\n", line["step"].get<std::int64_t>(), loss,
        pairs ? fmt::format("{:.1f} %", 100 * line[kAccuracy].get<double>()) : fmt::format("{:.2f}", std::exp(loss)));
  }
  return text;
}

/// Between the first two lines of "---"; empty without them.
std::string front_matter(const std::string& card) {
  constexpr std::string_view start = "---\n";
  if (!card.starts_with(start)) return "";
  const std::size_t end = card.find("\n---", start.size() - 1);
  return end == std::string::npos ? "" : card.substr(start.size(), end + 1 - start.size());
}

}  // namespace

CardFacts licence_of(const BaseModel& base) {
  if (!base.is_gguf) return read_model_card(base.path);
  const GgufFile file(base.path);
  return {file.text("general.license", ""), file.text("general.license.name", ""),
          file.text("general.license.link", "")};
}

std::string name_of(const fs::path& model) {
  const fs::path path = fs::absolute(model).lexically_normal();
  if (path.extension() == ".gguf") return path.stem().string();
  const fs::path folder = path.has_filename() ? path : path.parent_path();
  return (folder.filename() == "final" ? folder.parent_path() : folder).filename().string();
}

std::string model_card(const ExportOptions& options, const ExportSource& source, const BaseModel& base) {
  std::optional<Recipe> recipe;
  if (!source.recipe_file.empty()) recipe = read_recipe(source.recipe_file);
  // what training began with: a fully tuned model is its own base to an export
  const std::string name = name_of(recipe ? fs::path(recipe->model.base_model) : source.model);
  std::string text = front_matter_of(options, source, licence_of(base), name);
  text += fmt::format("\n# {}, tuned\n\n{}", name, opening(options, source, name));
  if (!recipe) return text;
  return text + training_of(*recipe) + evaluation_of(source.recipe_file.parent_path() / "metrics.jsonl");
}

CardFacts read_model_card(const std::filesystem::path& model_folder) {
  const std::filesystem::path path = model_folder / "README.md";
  CardFacts facts;
  if (!std::filesystem::is_regular_file(path)) return facts;
  Problems problems;  // of a file that isn't ours to mend
  const auto document = parse_document(front_matter(read_text(path)), path.string(), problems);
  if (!document) return facts;
  for (const auto& [name, place, value] : document->entries) {
    if (value.kind != YamlValue::Kind::scalar) continue;
    if (name == "license") facts.license = value.text;
    if (name == "license_name") facts.license_name = value.text;
    if (name == "license_link") facts.license_link = value.text;
  }
  return facts;
}

}  // namespace tune
