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

}  // namespace

Recipe read_recipe(const std::filesystem::path& path, const std::vector<Override>& overrides,
                   std::vector<std::string>* notes) {
  return parse_recipe(read_text(path), path.string(), overrides, notes);
}

Recipe parse_recipe(std::string_view yaml, const std::string& file, const std::vector<Override>& overrides,
                    std::vector<std::string>* notes) {
  Problems problems;
  std::optional<YamlValue> document = parse_document(yaml, file, problems);
  if (!document) problems.raise();
  for (const Override& change : overrides) apply_override(*document, change, problems);

  Reading reading{problems, {}, {}};
  Recipe recipe = read_fields(*document, file, reading);
  derive_batch_sizes(recipe.train, reading);
  if (recipe.stage == Stage::pretrain && !reading.has("data.train_on")) recipe.data.train_on = TrainOn::all;
  check_combinations(recipe, reading);
  problems.raise();
  for (ExportOptions& wanted : recipe.exports) {
    if (!is_adapter(wanted.format)) wanted.quant = wanted.quant.value_or(kDefaultQuant);
    if (wanted.format == ExportFormat::onnx) wanted.flavour = wanted.flavour.value_or(kDefaultFlavour);
  }
  fill_fim_rates(recipe.data.datasets);
  fill_fim_rates(recipe.data.eval_datasets);
  recipe.places = std::move(reading.places);
  if (notes != nullptr) notes->insert(notes->end(), reading.notes.begin(), reading.notes.end());
  return recipe;
}

}  // namespace tune
