#include "recipes/schema/reader.h"

#include <algorithm>
#include <fstream>
#include <iterator>

#include "recipes/schema/batch_sizes.h"
#include "recipes/schema/checks.h"
#include "recipes/schema/document.h"
#include "recipes/schema/error.h"
#include "recipes/schema/fields.h"
#include "recipes/schema/override.h"
#include "recipes/schema/stages.h"

namespace tune {
namespace {

// Never more than parse_document takes, and one byte to see that there is more.
std::string read_text(const std::filesystem::path& path) {
  constexpr std::size_t kLargest = 1024 * 1024 + 1;
  std::error_code failure;
  const auto status = std::filesystem::status(path, failure);
  if (!std::filesystem::exists(status))
    throw Error{Fault::recipe, {path.string()}, "there is no such recipe", "`tune recipes ls` lists those shipped"};
  if (std::filesystem::is_directory(status))
    throw Error{Fault::recipe, {path.string()}, "this is a folder, no recipe", "name the .yaml file"};
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw Error{Fault::recipe, {path.string()}, "the recipe cannot be opened", "check its permissions"};
  std::string text(kLargest, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(stream.gcount()));
  return text;
}

void fill_fim_rates(std::vector<DatasetOptions>& datasets) {
  for (DatasetOptions& options : datasets) {
    if (options.type != DatasetType::fim) continue;
    options.fim_rate = options.fim_rate.value_or(kDefaultFimRate);
    options.fim_spm_rate = options.fim_spm_rate.value_or(kDefaultFimSpmRate);
  }
}

// What is mistaken in it goes to `problems`; the rest keeps its default.
Recipe recipe_of(const YamlValue& document, const std::string& file, Problems& problems,
                 std::vector<std::string>& notes) {
  Reading reading{problems, {}, {}};
  Recipe recipe = read_fields(document, file, reading);
  derive_batch_sizes(recipe.train, reading);
  if (recipe.stage == Stage::pretrain && !reading.has("data.train_on")) recipe.data.train_on = TrainOn::all;
  check_combinations(recipe, reading);
  for (ExportOptions& wanted : recipe.exports) {
    if (!is_adapter(wanted.format)) wanted.quant = wanted.quant.value_or(kDefaultQuant);
    if (wanted.format == ExportFormat::onnx) wanted.flavour = wanted.flavour.value_or(kDefaultFlavour);
  }
  fill_fim_rates(recipe.data.datasets);
  fill_fim_rates(recipe.data.eval_datasets);
  recipe.places = std::move(reading.places);
  for (std::string& note : reading.notes)
    if (std::find(notes.begin(), notes.end(), note) == notes.end()) notes.push_back(std::move(note));
  return recipe;
}

// In `folder`/1-sft the first stage.
std::string parent_of(const std::string& folder) { return std::filesystem::path(folder).parent_path().string(); }

Recipe only_one(Stages stages, const std::string& file) {
  if (!stages.listed) return std::move(stages.recipes.front());
  throw Error{Fault::recipe, {file}, "the recipe has stages, and one is wanted here", "give a stage's own recipe.yaml"};
}

}  // namespace

Stages read_stages(const std::filesystem::path& path, const std::vector<Override>& overrides,
                   std::vector<std::string>* notes) {
  return parse_stages(read_text(path), path.string(), overrides, notes);
}

Stages parse_stages(std::string_view yaml, const std::string& file, const std::vector<Override>& overrides,
                    std::vector<std::string>* notes) {
  Problems problems;
  std::optional<YamlValue> document = parse_document(yaml, file, problems);
  if (!document) problems.raise();
  Stages stages{.listed = lists_stages(*document, overrides)};
  std::vector<YamlValue> documents;
  if (stages.listed) {
    documents = expand_stages(std::move(*document), overrides, problems);
  } else {
    for (const Override& change : overrides) apply_override(*document, change, problems);
    documents.push_back(std::move(*document));
  }
  std::vector<std::string> found;
  for (const YamlValue& each : documents) stages.recipes.push_back(recipe_of(each, file, problems, found));
  if (problems.count() == 0) check_stages(stages.recipes, problems);
  problems.raise();
  take_stored_ranks(stages.recipes);
  if (notes != nullptr) notes->insert(notes->end(), found.begin(), found.end());
  const std::string& first = stages.recipes.front().output_dir;
  stages.output_dir = stages.listed ? parent_of(first) : first;
  return stages;
}

Recipe read_recipe(const std::filesystem::path& path, const std::vector<Override>& overrides,
                   std::vector<std::string>* notes) {
  return only_one(read_stages(path, overrides, notes), path.string());
}

Recipe parse_recipe(std::string_view yaml, const std::string& file, const std::vector<Override>& overrides,
                    std::vector<std::string>* notes) {
  return only_one(parse_stages(yaml, file, overrides, notes), file);
}

}  // namespace tune
