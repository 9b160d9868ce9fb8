#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <exception>
#include <map>
#include <optional>

#include "checkpoints/files/output_lock.h"
#include "checkpoints/training/starts.h"
#include "recipes/schema/error.h"
#include "recipes/schema/tell.h"
#include "recipes/schema/writer.h"
#include "tools/export/export.h"
#include "tools/verbs/arguments.h"
#include "tools/verbs/as_rank.h"
#include "tools/verbs/calibration.h"
#include "tools/verbs/launch_argument.h"
#include "tools/verbs/recipe_argument.h"
#include "tools/verbs/verbs.h"
#include "tools/verbs/verification.h"
#include "train/device.h"
#include "train/parallel/cores.h"
#include "train/parallel/world.h"
#include "train/stop.h"
#include "train/trainer.h"

namespace tune {
namespace {

ResumeOption resume_option(const std::string& text) {
  if (text == "auto") return {};
  if (text == "never") return {.mode = ResumeOption::Mode::never};
  return {.mode = ResumeOption::Mode::folder, .folder = text};
}

void tell_summary(const RunResult& result, Stage stage) {
  if (result.before && result.after) {
    const bool pairs = stage == Stage::dpo;  // whose loss has no perplexity
    tell("\n{:<14}{:>12}{:>14}\n", "", "eval loss", pairs ? "" : "perplexity");
    for (const auto& [name, score] : {std::pair("before", *result.before), {"after", *result.after}})
      tell("{:<14}{:>12.4f}{:>14}\n", name, score.loss(), pairs ? "" : fmt::format("{:.2f}", score.perplexity()));
  }
  for (const Sample& sample : result.samples)
    tell("\n> {}\nbefore: {}\nafter:  {}\n", sample.prompt, sample.before, sample.after);
  tell("\n{} steps in {:.0f} s. Written:\n", result.steps, result.seconds);
}

/// What exports need the trained model itself for: measured on it once, and held against it. It is loaded for the first
/// that asks.
class TrainedModel {
 public:
  explicit TrainedModel(const Recipe& recipe) : trained_(recipe) {
    choose_adapter(trained_, "");  // of output_dir/final
  }

  const ImportanceMatrix& importance(const std::string& path) {
    const auto [found, is_new] = importance_.try_emplace(path);
    if (is_new && !path.empty()) found->second = importance_matrix(trained_, {}, path);
    return found->second;
  }

  void verify(const ExportOptions& options, const std::filesystem::path& written) {
    if (!options.verify) return;
    if (!verifier_) verifier_.emplace(trained_, ExportSource{}, held_out_rows(trained_).get());
    tell_comparison(options, written, verifier_->compare(options, written));
  }

 private:
  Recipe trained_;
  std::map<std::string, ImportanceMatrix> importance_;  // by what the recipe names
  std::optional<Verifier> verifier_;
};

/// What was written goes to stdout, a path a line. An export that fails doesn't keep the others from being written: the
/// first failure is thrown when all were tried, the others are told.
void hand_over(const Recipe& recipe, const RunResult& result) {
  std::string written = result.final_folder.string() + "\n";
  std::exception_ptr failure;
  TrainedModel trained(recipe);
  for (const ExportOptions& wanted : recipe.exports) {
    try {
      const std::filesystem::path path =
          export_run(recipe, wanted, result.final_folder, trained.importance(wanted.imatrix));
      keep_if_verified(path, [&] { trained.verify(wanted, path); });
      written += path.string() + "\n";
    } catch (const std::exception& error) {
      if (failure)
        tell("tune: {}\n", error.what());
      else
        failure = std::current_exception();
    }
  }
  fmt::print("{}", written);
  if (failure) std::rethrow_exception(failure);
}

// Another program or recipe on one of the hosts would train something that nobody asked for.
std::map<std::string, std::string> facts_to_agree_on(const Recipe& recipe, const std::string& device) {
  return {{"program", program_version()},
          {"recipe", write_recipe(recipe)},
          {"kind of device", device == "cpu" ? "cpu" : "cuda"}};
}

int train_and_hand_over(const Recipe& recipe, const std::string& resume, World& world) {
  check_exports(recipe, open_base_model(recipe.model.base_model));
  check_calibration(recipe);
  if (resume == "never" && world.rank().writes()) forget_starts(recipe.output_dir);
  const RunResult result = run_training(recipe, resume_option(resume), world);
  if (result.interrupted) {
    const bool nowhere = world.from_first([&] {
      return goes_nowhere(recipe.output_dir, result.resumed_from, result.steps) ? "yes" : "no";
    }) == "yes";
    if (nowhere && world.rank().writes()) forget_starts(recipe.output_dir);  // whoever starts it again has seen this
    if (nowhere)
      throw Error{Fault::running,
                  {recipe.output_dir},
                  fmt::format("stopped at step {} {} times in a row without having done a step", result.steps,
                              kStartsWithoutProgress),
                  "give it more time (the job's limit, or the grace of a preemption), then start it again"};
    tell("stopped after step {}; the same command {}\n", result.steps,
         resume == "auto" ? "goes on from there" : "with --resume auto goes on from there");
    return static_cast<int>(Fault::interrupted);
  }
  world.enter(Phase::finished);
  if (!world.rank().writes()) return 0;
  forget_starts(recipe.output_dir);
  if (result.tuned_weights) write_tuned_model(recipe, *result.tuned_weights, result.final_folder);
  tell_summary(result, recipe.stage);
  hand_over(recipe, result);
  return 0;
}

int run_as_rank(const Recipe& recipe, const std::string& resume, const Rank& rank) {
  // A scheduler's signal may come while the model is loaded; ^C still ends that at once.
  install_stop_signals({SIGTERM, SIGUSR1});
  std::optional<OutputLock> lock;
  if (rank.writes()) lock.emplace(recipe.output_dir);
  return as_rank(rank, recipe.output_dir, [&](World& world) {
    if (rank.count > 1) {
      const std::string device = chosen_device(recipe.train.device);
      world.meet(rank, recipe.distributed, device, recipe.output_dir, facts_to_agree_on(recipe, device));
      bind_cores(world, device);
      if (rank.writes())
        tell("{} ranks on {} host{}, by {}: {} each\n", rank.count, world.hosts(), world.hosts() == 1 ? "" : "s",
             rank.source, device_name(device));
      else
        fall_silent();
    }
    return train_and_hand_over(recipe, resume, world);
  });
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
  add_launch_options(options);
  po::variables_map values;
  if (!parse_arguments(arguments, "run", "Trains as the recipe says, evaluates and hands over.",
                       "tune run --recipe zephyr-support --set train.learning_rate=1e-4", options, values))
    return 0;
  const Rank rank = rank_from_environment();
  if (rank.number > 0 && rank.local_number > 0) fall_silent();  // the notes of one rank a host are enough
  const Recipe recipe = recipe_argument(values);
  const LaunchOptions wanted = launch_options(values, recipe.train.device, recipe.train.global_batch_size, rank);
  if (values.count("dry-run") != 0) {
    print_plan(recipe, std::max(wanted.ranks * wanted.hosts, rank.count));
    return 0;
  }
  if (wanted.ranks * wanted.hosts > 1) return launch(wanted, started_with("run", arguments), recipe.output_dir);
  return run_as_rank(recipe, values["resume"].as<std::string>(), rank);
}

}  // namespace tune
