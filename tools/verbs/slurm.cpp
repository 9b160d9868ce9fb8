#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>

#include "checkpoints/files/atomic_file.h"
#include "recipes/schema/error.h"
#include "recipes/schema/tell.h"
#include "tools/verbs/arguments.h"
#include "tools/verbs/recipe_argument.h"
#include "tools/verbs/verbs.h"

namespace tune {
namespace {

namespace fs = std::filesystem;
namespace po = boost::program_options;

// For bash, whatever is in it.
std::string quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

[[noreturn]] void refuse(const std::string& what, const std::string& remedy) {
  throw Error{Fault::recipe, {}, what, remedy};
}

std::int64_t count(const po::variables_map& values, const char* name, std::int64_t least) {
  const auto value = values[name].as<std::int64_t>();
  if (value < least) refuse(fmt::format("--{} is {}", name, value), fmt::format("{} at least", least));
  return value;
}

// Between an option of #SBATCH and the next; how it would read quotes depends on Slurm's version.
bool is_plain(const std::string& text) {
  return !text.empty() && text.find_first_of(" \t\n'\"\\") == std::string::npos;
}

std::string word(const po::variables_map& values, const char* name) {
  const auto text = values[name].as<std::string>();
  if (!is_plain(text)) refuse(fmt::format("--{} is \"{}\"", name, text), "write one word without quotes");
  return text;
}

std::string plain_path(const char* what, const fs::path& path) {
  if (!is_plain(path.string()))
    refuse(fmt::format("{} is {}", what, path.string()), "a path in an sbatch file has no blanks and no quotes");
  return path.string();
}

std::string directives(const Stages& all, const po::variables_map& values) {
  std::string text;
  const auto add = [&](const std::string& option) { text += "#SBATCH --" + option + "\n"; };
  const std::int64_t gpus = count(values, "gpus-per-node", 0);
  const std::int64_t tasks = gpus > 0 ? gpus : count(values, "ntasks-per-node", 1);
  if (gpus > 0 && !values["ntasks-per-node"].defaulted())
    refuse("--ntasks-per-node is given beside --gpus-per-node", "leave it out: one rank a GPU");
  add("job-name=" + word(values, "job-name"));
  add(fmt::format("nodes={}", count(values, "nodes", 1)));
  add(fmt::format("ntasks-per-node={}", tasks));
  if (gpus > 0) add(fmt::format("gpus-per-node={}", gpus));
  add(fmt::format("cpus-per-task={}", count(values, "cpus-per-task", 1)));
  add("time=" + word(values, "time"));
  for (const char* name : {"mem", "partition", "account", "qos"})
    if (values.count(name) != 0) add(std::string(name) + "=" + word(values, name));
  add(fmt::format("signal=USR1@{}", count(values, "signal-seconds", 1)));
  add("requeue");
  add("chdir=" + plain_path("the current folder", fs::current_path()));  // what the recipe's relative paths mean here
  add("open-mode=append");
  // %j: every start of a job appends to the same file
  add("output=" + plain_path("output_dir", fs::absolute(all.output_dir) / "slurm-%j.out"));
  return text;
}

std::string script(const Stages& all, const po::variables_map& values) {
  std::vector<std::string> command = {quoted(fs::read_symlink("/proc/self/exe").string()), "run", "--recipe",
                                      quoted(fs::absolute(all.recipes.front().file).string())};
  for (const std::string& text : values["set"].as<std::vector<std::string>>()) {
    command.emplace_back("--set");
    command.push_back(quoted(text));
  }
  return fmt::format(R"(#!/bin/bash
{}
# USR1 comes before the time is up, TERM with a preemption, both to the ranks: they finish their step, write a checkpoint
# and end with 75. This shell has to outlive them: an exit code by itself requeues nothing.
trap : TERM USR1
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" {} &
step=$!
wait "$step"
code=$?
while [ "$code" -gt 128 ] && kill -0 "$step" 2>/dev/null; do  # a signal ended the wait, not the ranks
  wait "$step"
  code=$?
done
if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID" && sleep 60  # Slurm ends this shell; an end of its own could come first
fi
exit "$code"
)",
                     directives(all, values), fmt::join(command, " "));
}

}  // namespace

int slurm_verb(const std::vector<std::string>& arguments) {
  po::options_description options("Options");
  add_recipe_options(options);
  options.add_options()("nodes", po::value<std::int64_t>()->default_value(1), "hosts")(
      "gpus-per-node", po::value<std::int64_t>()->default_value(8), "and ranks on each; 0: on the CPU")(
      "ntasks-per-node", po::value<std::int64_t>()->default_value(1), "ranks on each host without GPUs")(
      "cpus-per-task", po::value<std::int64_t>()->default_value(8), "cores a rank")(
      "time", po::value<std::string>()->default_value("24:00:00"), "limit of one start of the job")(
      "signal-seconds", po::value<std::int64_t>()->default_value(120), "so long before it a checkpoint is asked for")(
      "job-name", po::value<std::string>()->default_value("tune"), "in squeue")("mem", po::value<std::string>(),
                                                                                "memory of a host, such as 200G")(
      "partition", po::value<std::string>(), "queue")("account", po::value<std::string>(), "who pays")(
      "qos", po::value<std::string>(), "quality of service")("output", po::value<std::string>(),
                                                             "file; not given: stdout");
  po::variables_map values;
  if (!parse_arguments(
          arguments, "slurm", "Writes the batch file of a job that survives time limits and preemption: sbatch FILE.",
          "tune slurm --recipe zephyr-support --nodes 2 --gpus-per-node 8 --output job.sbatch", options, values))
    return 0;
  const Stages all = stages_argument(values);
  const std::string text = script(all, values);
  fs::create_directories(all.output_dir);  // Slurm makes no folder for its log
  if (values.count("output") == 0) {
    fmt::print("{}", text);
    return 0;
  }
  const fs::path file = values["output"].as<std::string>();
  write_atomically(file, text);
  tell("written: {}; start it with: sbatch {}\n", file.string(), file.string());
  return 0;
}

}  // namespace tune
