#include "tools/verbs/source_argument.h"

#include <fmt/format.h>

#include "checkpoints/peft/adapter_folder.h"
#include "recipes/schema/error.h"
#include "recipes/schema/reader.h"
#include "tools/export/import_gguf_lora.h"
#include "tools/verbs/arguments.h"
#include "tools/verbs/recipe_argument.h"
#include "tools/verbs/stages.h"

namespace tune {

namespace po = boost::program_options;

void add_source_options(po::options_description& options) {
  const auto text = [] { return po::value<std::string>(); };
  options.add_options()("run", text(), "output_dir of a run, or one of its checkpoints")(
      "stage", po::value<std::int64_t>(), "of a run with stages: which one, from 1; default: the last")(
      "model", text(), "Hugging Face folder or .gguf file")(
      "adapter", text(), "PEFT folder on top of --model; with --format adapter also a GGUF adapter")(
      "template", text()->default_value(""), "the chat template that --adapter was trained with");
}

namespace {

// The folder of the stage that is meant, or --run itself where it has no stages.
std::filesystem::path run_argument(const po::variables_map& values) {
  const std::filesystem::path run = values["run"].as<std::string>();
  const std::map<std::int64_t, std::filesystem::path> folders = stage_folders(run);
  if (values.count("stage") == 0) return folders.empty() ? run : folders.rbegin()->second;
  const auto wanted = values["stage"].as<std::int64_t>();
  if (const auto found = folders.find(wanted); found != folders.end()) return found->second;
  throw Error{Fault::recipe,
              {run.string()},
              fmt::format("has no stage {}", wanted),
              folders.empty() ? "leave --stage out" : fmt::format("there are {}", folders.size())};
}

}  // namespace

ExportSource source_argument(const po::variables_map& values) {
  if (values.count("run") + values.count("model") != 1)
    throw Error{
        Fault::recipe, {}, "give either --run or --model", "--run for what a run has trained, --model for any other"};
  if (values.count("run") != 0) {
    if (values.count("adapter") != 0)
      throw Error{Fault::recipe, {}, "--adapter goes with --model; a run has its own", "leave it out"};
    return source_of_run(run_argument(values));
  }
  if (values.count("stage") != 0) throw Error{Fault::recipe, {}, "--stage goes with --run", "leave it out"};
  ExportSource source{.model = values["model"].as<std::string>(),
                      .chat_template = values["template"].as<std::string>()};
  if (values.count("adapter") == 0) return source;
  const std::filesystem::path adapter = values["adapter"].as<std::string>();
  source.adapter = is_gguf_adapter(adapter) ? adapter : adapter_folder(adapter);
  return source;
}

void choose_merge_base(const po::variables_map& values, ExportOptions& options, ExportSource& source) {
  if (values.count("merge-base") == 0) return;
  options.merge_base = enum_argument<MergeBase>(values, "merge-base");
  if (!source.adapter || is_adapter(options.format) || options.separate_adapter)
    throw Error{Fault::recipe, {}, "--merge-base is given, but nothing is merged", "leave it out"};
  if (!source.recipe_file.empty() && !source.on_nf4)
    throw Error{Fault::recipe,
                {source.recipe_file.string()},
                "--merge-base is given, but the run trained on the base model's own weights",
                "leave it out; only adapter.type: qlora has two bases"};
  if (source.recipe_file.empty()) source.on_nf4 = options.merge_base == MergeBase::dequantized;
}

Recipe trained_model(const ExportSource& source) {
  Recipe recipe;
  recipe.data.chat_template = source.chat_template.empty() ? "none" : source.chat_template;
  if (!source.recipe_file.empty()) recipe = read_recipe(source.recipe_file);
  recipe.model.base_model = source.model.string();
  recipe.adapter.type = source.on_nf4 ? AdapterType::qlora : AdapterType::lora;
  choose_adapter(recipe, source.adapter ? source.adapter->string() : "none");
  return recipe;
}

}  // namespace tune
