#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "recipes/schema/error.h"
#include "tools/verbs/arguments.h"
#include "tools/verbs/recipe_argument.h"
#include "tools/verbs/verbs.h"
#include "train/evaluate.h"
#include "train/inputs.h"
#include "train/reference.h"

namespace tune {
namespace {

constexpr std::int64_t kEvaluationTokens = 8192;

// What the loss is a mean over.
const char* counted(const Evaluation& evaluation) {
  return evaluation.kl ? "answers" : evaluation.preference ? "pairs" : "tokens";
}

// Of pairs and single answers, a perplexity says nothing.
nlohmann::ordered_json as_json(const Score& score, const Evaluation& evaluation) {
  nlohmann::ordered_json json = {{"loss", score.loss()}};
  if (!evaluation.preference) json["perplexity"] = score.perplexity();
  json[counted(evaluation)] = score.tokens;
  return json;
}

double margin(const PreferenceSums& sums) {
  return sums.chosen_reward / sums.chosen - sums.rejected_reward / sums.rejected;
}

void print_table(const Evaluation& evaluation) {
  const bool pairs = evaluation.preference.has_value();
  const auto line = [&](const Score& score, const std::string& source) {
    fmt::print("{:>10.4f} {:>12} {:>10}  {}\n", score.loss(), pairs ? "" : fmt::format("{:.3f}", score.perplexity()),
               score.tokens, source);
  };
  fmt::print("{:>10} {:>12} {:>10}  {}\n", "loss", pairs ? "" : "perplexity", counted(evaluation), "source");
  for (const auto& [source, score] : evaluation.sources) line(score, source);
  line(evaluation.total, "all");
  const auto& sums = evaluation.preference;
  if (evaluation.kl)
    fmt::print("reward {:.4f} of {} good answers, {:.4f} of {} bad ones, KL {:.4f}\n",
               sums->chosen_reward / std::max(sums->chosen, 1.0), sums->chosen,
               sums->rejected_reward / std::max(sums->rejected, 1.0), sums->rejected, *evaluation.kl);
  else if (sums)
    fmt::print("reward margin {:.4f}, the chosen answer has the higher reward in {:.1f} % of the pairs\n",
               margin(*sums), 100 * sums->right / sums->pairs);
}

}  // namespace

int eval_verb(const std::vector<std::string>& arguments) {
  namespace po = boost::program_options;
  po::options_description options("Options");
  add_recipe_options(options);
  add_stage_option(options);
  options.add_options()("adapter", po::value<std::string>(),
                        "PEFT folder, or none for the base model; default: output_dir/final where it exists")(
      "model", po::value<std::string>(), "another model than the recipe's")("json", "one JSON object on stdout");
  po::variables_map values;
  if (!parse_arguments(arguments, "eval", "Loss, perplexity and tokens per source on the recipe's eval_datasets.",
                       "tune eval --recipe quickstart --adapter runs/quickstart/final --json", options, values))
    return 0;
  const Stages all = stages_argument(values);
  Recipe recipe = all.recipes[chosen_stage(all, values)];
  if (recipe.data.eval_datasets.empty())
    throw Error{Fault::recipe,
                {recipe.file},
                "the recipe has no data.eval_datasets",
                "add one, or --set data.eval_datasets[0].path=FILE"};
  const Recipe start = recipe;
  choose_adapter(recipe, values.count("adapter") != 0 ? values["adapter"].as<std::string>() : "");
  if (values.count("model") != 0) recipe.model.base_model = values["model"].as<std::string>();

  const Inputs inputs = open_inputs(recipe, Purpose::evaluation);
  World alone;
  Objective objective(recipe.stage, recipe.preference);
  // Of pairs, what a merged or fully tuned model is compared with is the recipe's own start.
  if (objective.needs_reference() && (!has_adapter(start.adapter) || !start.adapter.init_adapter.empty())) {
    const BaseModel base = open_base_model(start.model.base_model);
    const auto first = load_decoder(base, decoder_options(start, base.config, false));
    objective.set_reference(reference_of(*first, *inputs.evaluation_rows, recipe.eval.per_device_eval_batch_size,
                                         kEvaluationTokens, alone));
  }
  const auto decoder = load_decoder(inputs.base, decoder_options(recipe, inputs.base.config, false));
  const Evaluation evaluation = evaluate(*decoder, *inputs.evaluation_rows, recipe.data.eval_datasets,
                                         recipe.eval.per_device_eval_batch_size, alone, kEvaluationTokens, objective)
                                    .value();  // no signal is caught here, so that no stop can be asked for
  if (values.count("json") == 0) {
    print_table(evaluation);
    return 0;
  }
  nlohmann::ordered_json json = as_json(evaluation.total, evaluation);
  for (const auto& [source, score] : evaluation.sources) json["sources"][source] = as_json(score, evaluation);
  if (const auto& sums = evaluation.preference) {
    if (sums->chosen > 0 && sums->rejected > 0) json["rewards/margins"] = margin(*sums);
    if (evaluation.kl)
      json["kl"] = *evaluation.kl;
    else
      json["rewards/accuracies"] = sums->right / sums->pairs;
  }
  fmt::print("{}\n", json.dump());
  return 0;
}

}  // namespace tune
