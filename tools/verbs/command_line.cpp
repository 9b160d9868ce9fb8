#include "tools/verbs/command_line.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <filesystem>

#include "recipes/schema/error.h"
#include "recipes/schema/suggest.h"
#include "recipes/schema/tell.h"
#include "tools/verbs/complaint.h"
#include "tools/verbs/verbs.h"

namespace tune {

const std::vector<Verb>& verbs() {
  static const std::vector<Verb> kVerbs = {
      {"run", "train as a recipe says, evaluate, hand over (the default verb)", run_verb},
      {"plan", "check a recipe, its data and its model; print steps, tokens and memory", plan_verb},
      {"recipes", "list, show and copy the shipped recipes", recipes_verb},
      {"models", "the base models known by name: what they need and what they are good for", models_verb},
      {"data", "show rows with what is trained in them, or count them", data_verb},
      {"eval", "loss and perplexity of a model, with or without an adapter", eval_verb},
      {"generate", "answer one prompt", generate_verb},
      {"export", "write a run or a model as adapter, Hugging Face folder, GGUF or GGUF adapter", export_verb},
      {"imatrix", "which columns of the weights count on some data, for better quantised GGUFs", imatrix_verb},
      {"verify", "compare an exported model's answers with those of what was trained", verify_verb},
      {"upscale", "a deeper model out of a base model, whose layers are repeated (SOLAR)", upscale_verb},
      {"slurm", "write the batch file of a job that survives time limits and preemption", slurm_verb},
      {"inspect", "what is inside a model, adapter or checkpoint, and whether it is intact", inspect_verb},
      {"doctor", "what this machine has and lacks for training", doctor_verb},
      {"completion", "a completion script for bash", completion_verb},
  };
  return kVerbs;
}

namespace {

int print_help() {
  fmt::print("tune {}: fine-tunes open language models\n\nUsage: tune --recipe FILE\n       tune VERB [options]\n\n",
             TUNE_VERSION);
  for (const Verb& verb : verbs()) fmt::print("  {:<12}{}\n", verb.name, verb.summary);
  fmt::print(
      "\ntune VERB --help says more, tune --version which LibTorch is used.\n"
      "Exit codes: 0 done, 1 failed while running, 2 bad command line or recipe, 3 bad data or model files,\n"
      "4 does not fit in memory, 75 interrupted and resumable.\n");
  return 0;
}

[[noreturn]] void refuse_verb(const std::string& name) {
  std::vector<std::string> names;
  for (const Verb& verb : verbs()) names.emplace_back(verb.name);
  const auto meant = nearest(name, names);
  std::string remedy = meant ? fmt::format("did you mean {}?", *meant) : "verbs are " + one_of(names);
  if (name.ends_with(".yaml") || std::filesystem::exists(name))
    remedy = fmt::format("to run a recipe write: tune --recipe {}", name);
  throw Error{Fault::recipe, {}, fmt::format("there is no verb \"{}\"", name), remedy};
}

int dispatch(std::vector<std::string> arguments) {
  if (arguments.empty())
    throw Error{Fault::recipe, {}, "nothing to do", "try tune --recipe quickstart, or tune --help"};
  const std::string first = arguments.front();
  if (first == "--help" || first == "-h" || first == "help") return print_help();
  if (first == "--version") return print_version();
  if (first.starts_with('-')) return run_verb(arguments);
  arguments.erase(arguments.begin());
  for (const Verb& verb : verbs())
    if (first == verb.name) return verb.run(arguments);
  refuse_verb(first);
}

// What is still in the buffer may meet a full disk or a closed pipe.
int flushed(int exit_code) {
  if (std::fflush(stdout) == 0) return exit_code;
  if (errno == EPIPE) return kClosedPipe;
  throw Error{Fault::running, {"standard output"}, std::strerror(errno), "direct it elsewhere"};
}

}  // namespace

int run_command_line(const std::vector<std::string>& arguments) {
  try {
    return flushed(dispatch(arguments));
  } catch (...) {
    const Complaint complaint = complaint_of(std::current_exception());
    std::fflush(stdout);
    if (!complaint.text.empty()) tell("tune: {}\n", complaint.text);
    return complaint.exit_code;
  }
}

}  // namespace tune
