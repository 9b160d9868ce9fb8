#include <fmt/format.h>

#include <algorithm>

#include "recipes/schema/error.h"
#include "recipes/schema/tell.h"
#include "tools/export/export.h"
#include "tools/verbs/arguments.h"
#include "tools/verbs/recipe_argument.h"
#include "tools/verbs/verbs.h"
#include "train/trainer.h"

namespace tune {
namespace {

ResumeOption resume_option(const std::string& text) {
  if (text == "auto") return {};
  if (text == "never") return {.mode = ResumeOption::Mode::never};
  return {.mode = ResumeOption::Mode::folder, .folder = text};
}

void print_summary(const RunResult& result) {
  if (result.before && result.after) {
    fmt::print("\n{:<14}{:>12}{:>14}\n", "", "eval loss", "perplexity");
    fmt::print("{:<14}{:>12.4f}{:>14.2f}\n", "before", result.before->loss(), result.before->perplexity());
    fmt::print("{:<14}{:>12.4f}{:>14.2f}\n", "after", result.after->loss(), result.after->perplexity());
  }
  for (const Sample& sample : result.samples)
    fmt::print("\n> {}\nbefore: {}\nafter:  {}\n", sample.prompt, sample.before, sample.after);
}

void hand_over(const Recipe& recipe, const RunResult& result) {
  if (result.tuned_weights) write_tuned_model(recipe, *result.tuned_weights, result.final_folder);
  fmt::print("\n{} steps in {:.0f} s. Written:\n  {}\n", result.steps, result.seconds, result.final_folder.string());
  for (const ExportOptions& wanted : recipe.exports)
    fmt::print("  {}\n", export_run(recipe, wanted, result.final_folder).string());
}

}  // namespace

int run_verb(const std::vector<std::string>& arguments) {
  namespace po = boost::program_options;
  po::options_description options("Options");
  add_recipe_options(options);
  options.add_options()(
      "resume", po::value<std::string>()->default_value("auto"),
      "auto: go on from the newest whole checkpoint in output_dir; never: start again and drop the old "
      "checkpoints; or a checkpoint folder")("dry-run", "the same as tune plan");
  po::variables_map values;
  if (!parse_arguments(arguments, "run", "Trains as the recipe says, evaluates and hands over.",
                       "tune run --recipe zephyr-support --set train.learning_rate=1e-4", options, values))
    return 0;
  if (values.count("dry-run") != 0) {
    std::vector<std::string> plan_arguments;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
      if (arguments[i] == "--dry-run") continue;
      if (arguments[i] == "--resume" && i + 1 < arguments.size()) {
        ++i;
        continue;
      }
      if (arguments[i].rfind("--resume=", 0) == 0) continue;
      plan_arguments.push_back(arguments[i]);
    }
    return plan_verb(plan_arguments);
  }
  const Recipe recipe = recipe_argument(values);
  const RunResult result = run_training(recipe, resume_option(values["resume"].as<std::string>()));
  if (result.interrupted) {
    tell("stopped after step {}; the same command {}\n", result.steps,
         values["resume"].as<std::string>() == "auto" ? "goes on from there" : "with --resume auto goes on from there");
    return static_cast<int>(Fault::interrupted);
  }
  print_summary(result);
  hand_over(recipe, result);
  return 0;
}

}  // namespace tune
