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
#include "tools/verbs/stages.h"
#include "tools/verbs/verbs.h"
#include "tools/verbs/verification.h"
#include "train/device.h"
#include "train/parallel/cores.h"
#include "train/parallel/world.h"
#include "train/run_record.h"
#include "train/stop.h"
#include "train/trainer.h"

namespace tune {
namespace {

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
std::map<std::string, std::string> facts_to_agree_on(const Stages& all, const std::string& device) {
  std::string recipes;
  for (const Recipe& recipe : all.recipes) recipes += write_recipe(recipe);
  return {{"program", program_version()}, {"recipe", recipes}, {"kind of device", device == "cpu" ? "cpu" : "cuda"}};
}

// last: of the stages.
int train_and_hand_over(const Recipe& recipe, const ResumeOption& resume, World& world, bool last) {
  check_exports(recipe, open_base_model(recipe.model.base_model));
  check_calibration(recipe);
  if (resume.mode == ResumeOption::Mode::never && world.rank().writes()) forget_starts(recipe.output_dir);
  const RunResult result = run_training(recipe, resume, world);
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
         resume.mode == ResumeOption::Mode::automatic ? "goes on from there" : "with --resume auto goes on from there");
    return static_cast<int>(Fault::interrupted);
  }
  world.enter(last ? Phase::finished : Phase::saving, result.steps);
  if (!world.rank().writes()) return 0;
  forget_starts(recipe.output_dir);
  if (result.tuned_weights) write_tuned_model(recipe, *result.tuned_weights, result.final_folder);
  tell_summary(result, recipe.stage);
  hand_over(recipe, result);
  mark_handed_over(recipe.output_dir);
  return 0;
}

// Of a stop that was asked for while rank 0 handed over what the stage before has made.
bool stops_here(World& world) { return world.sum({stop_requested() != 0 ? 1.0 : 0.0}).front() > 0; }

int run_stages(const Stages& all, const StagesResume& resume, World& world) {
  world.enter(Phase::tokenising);
  const std::size_t done = std::stoul(
      world.from_first([&] { return std::to_string(check_stages(all, world.rank().count, resume.first_to_run())); }));
  const bool speaks = world.rank().writes();
  for (std::size_t i = 0; i < all.recipes.size(); ++i) {
    const Recipe& recipe = all.recipes[i];
    if (i < done) {
      if (speaks) tell("{}: done already\n", title_of(all, i));
      continue;
    }
    if (stops_here(world)) {
      if (speaks) tell("stopped before {}; the same command goes on from there\n", title_of(all, i));
      return static_cast<int>(Fault::interrupted);
    }
    if (i > done) free_unused_memory(chosen_device(recipe.train.device));
    std::optional<OutputLock> lock;
    if (speaks) lock.emplace(recipe.output_dir);
    if (speaks) tell("\n{}\n", title_of(all, i));
    const int code = train_and_hand_over(recipe, resume.of(i), world, i + 1 == all.recipes.size());
    if (code != 0) return code;
  }
  return 0;
}

int run_as_rank(const Stages& all, const StagesResume& resume, const Rank& rank) {
  const Recipe& first = all.recipes.front();
  // A scheduler's signal may come while the model is loaded; ^C still ends that at once.
  install_stop_signals({SIGTERM, SIGUSR1});
  std::optional<OutputLock> lock;
  if (rank.writes()) lock.emplace(all.output_dir);
  return as_rank(rank, all.output_dir, [&](World& world) {
    if (rank.count > 1) {
      const std::string device = chosen_device(first.train.device);
      world.meet(rank, first.distributed, device, all.output_dir, facts_to_agree_on(all, device));
      bind_cores(world, device);
      if (rank.writes())
        tell("{} ranks on {} host{}, by {}: {} each\n", rank.count, world.hosts(), world.hosts() == 1 ? "" : "s",
             rank.source, device_name(device));
      else
        fall_silent();
    }
    return all.listed ? run_stages(all, resume, world) : train_and_hand_over(first, resume.of(0), world, true);
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
      "checkpoints, those of all stages; or a checkpoint folder")("dry-run", "the same as tune plan");
  add_launch_options(options);
  po::variables_map values;
  if (!parse_arguments(arguments, "run", "Trains as the recipe says, evaluates and hands over.",
                       "tune run --recipe zephyr-support --set train.learning_rate=1e-4", options, values))
    return 0;
  const Rank rank = rank_from_environment();
  if (rank.number > 0 && rank.local_number > 0) fall_silent();  // the notes of one rank a host are enough
  const Stages all = stages_argument(values);
  const StagesResume resume(all, values["resume"].as<std::string>());
  std::int64_t rows = all.recipes.front().train.global_batch_size;
  for (const Recipe& recipe : all.recipes) rows = std::min(rows, recipe.train.global_batch_size);
  const LaunchOptions wanted = launch_options(values, all.recipes.front().train.device, rows, rank);
  if (values.count("dry-run") != 0) {
    print_plans(all, std::max(wanted.ranks * wanted.hosts, rank.count));
    return 0;
  }
  if (wanted.ranks * wanted.hosts > 1) return launch(wanted, started_with("run", arguments), all.output_dir);
  return run_as_rank(all, resume, rank);
}

}  // namespace tune
