#include "tools/verbs/recipe_argument.h"

#include <fmt/format.h>

#include "checkpoints/peft/adapter_folder.h"
#include "data/tokenizer/tokenizer.h"
#include "recipes/schema/error.h"
#include "recipes/schema/lookup.h"
#include "recipes/schema/reader.h"
#include "recipes/schema/tell.h"
#include "tools/verbs/installed_recipes.h"

namespace tune {

void add_recipe_options(boost::program_options::options_description& options) {
  namespace po = boost::program_options;
  options.add_options()("recipe", po::value<std::string>(), "recipe file, or the name of a shipped one")(
      "set", po::value<std::vector<std::string>>()->default_value({}, "")->composing(),
      "key.path=value, overrides a key of the recipe; repeatable");
}

void add_stage_option(boost::program_options::options_description& options) {
  options.add_options()("stage", boost::program_options::value<std::int64_t>(),
                        "of a recipe with stages: which one, from 1; default: the last");
}

Stages stages_argument(const boost::program_options::variables_map& values) {
  if (values.count("recipe") == 0)
    throw Error{
        Fault::recipe, {}, "no recipe given", "name one: --recipe quickstart; `tune recipes ls` lists those shipped"};
  std::vector<Override> overrides;
  for (const std::string& text : values["set"].as<std::vector<std::string>>()) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0)
      throw Error{Fault::recipe, {}, fmt::format("--set {} has no '='", text), "write --set key.path=value"};
    overrides.push_back({text.substr(0, equals), text.substr(equals + 1)});
  }
  std::vector<std::string> notes;
  Stages all = read_stages(find_recipe(values["recipe"].as<std::string>(), installed_recipes()), overrides, &notes);
  for (const std::string& note : notes) tell("{}\n", note);
  return all;
}

std::size_t chosen_stage(const Stages& all, const boost::program_options::variables_map& values) {
  if (values.count("stage") == 0) return all.recipes.size() - 1;
  const auto wanted = values["stage"].as<std::int64_t>();
  if (!all.listed)
    throw Error{Fault::recipe, {}, fmt::format("--stage {}, but the recipe has no stages", wanted), "leave it out"};
  const auto count = static_cast<std::int64_t>(all.recipes.size());
  if (wanted < 1 || wanted > count)
    throw Error{Fault::recipe, {}, fmt::format("--stage {} of {} stages", wanted, count), "they are counted from 1"};
  return static_cast<std::size_t>(wanted - 1);
}

void choose_adapter(Recipe& recipe, const std::string& adapter) {
  std::filesystem::path folder = adapter;
  if (adapter.empty()) {
    folder = std::filesystem::path(recipe.output_dir) / "final";
    if (std::filesystem::exists(folder / "config.json")) recipe.model.base_model = folder.string();
    if (!std::filesystem::exists(folder / kAdapterConfigFile)) folder = "none";
  }
  const AdapterType trained = recipe.adapter.type;
  recipe.adapter = {};
  recipe.adapter.type = AdapterType::none;
  if (folder == "none") return;
  folder = adapter_folder(folder);
  const AdapterConfig config = read_adapter_config(folder);
  // of a recipe with qlora the adapter was trained on a base in NF4: there it says what it has learnt
  recipe.adapter = {.type = trained == AdapterType::none ? AdapterType::lora : trained,
                    .lora_r = config.r,
                    .lora_alpha = config.lora_alpha,
                    .lora_dropout = 0,
                    .use_rslora = config.use_rslora,
                    .use_dora = config.use_dora,
                    .rank_pattern = config.rank_pattern,
                    .alpha_pattern = config.alpha_pattern,
                    .lora_target_modules = config.target_modules,
                    .modules_to_save = config.modules_to_save,
                    .init_adapter = folder.string()};
  if (config.trainable_token_indices.empty()) return;
  const auto tokenizer = open_tokenizer(recipe.model.base_model);
  for (const std::int64_t id : config.trainable_token_indices)
    recipe.adapter.trainable_tokens.push_back(tokenizer->token_text(static_cast<std::int32_t>(id)));
}

}  // namespace tune
