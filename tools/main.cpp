#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <csignal>
#include <exception>
#include <new>

#include "recipes/schema/error.h"
#include "recipes/schema/suggest.h"
#include "tools/verbs/verbs.h"

namespace tune {

const std::vector<Verb>& verbs() {
  static const std::vector<Verb> kVerbs = {
      {"run", "train as a recipe says, evaluate, hand over (the default verb)", run_verb},
      {"plan", "check a recipe, its data and its model; print steps, tokens and memory", plan_verb},
      {"recipes", "list, show and copy the shipped recipes", recipes_verb},
      {"eval", "loss and perplexity of a model, with or without an adapter", eval_verb},
      {"generate", "answer one prompt", generate_verb},
  };
  return kVerbs;
}

namespace {

// By default glibc gives big blocks back to the kernel and faults them in again, zeroed, at every step: half of a CPU
// trainer's time. From here on freed memory is kept and used again.
void keep_freed_memory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_TOP_PAD, 64 << 20);
  mallopt(M_ARENA_MAX, 2);
}

void print_help() {
  fmt::print("tune {}: fine-tunes open language models\n\nUsage: tune --recipe FILE\n       tune VERB [options]\n\n", TUNE_VERSION);
  for (const Verb& verb : verbs()) fmt::print("  {:<10}{}\n", verb.name, verb.summary);
  fmt::print("\ntune VERB --help says more. Exit codes: 0 done, 1 failed while running, 2 bad command line or recipe,\n"
             "3 bad data or model files, 4 does not fit in memory, 5 verification failed, 75 interrupted and resumable.\n");
}

int dispatch(std::vector<std::string> arguments) {
  if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "-h") {
    print_help();
    return arguments.empty() ? static_cast<int>(Fault::recipe) : 0;
  }
  if (arguments[0] == "--version") {
    fmt::print("tune {}\n", TUNE_VERSION);
    return 0;
  }
  if (arguments[0].starts_with("-")) return run_verb(arguments);
  const std::string name = arguments[0];
  arguments.erase(arguments.begin());
  std::vector<std::string> names;
  for (const Verb& verb : verbs()) {
    if (name == verb.name) return verb.run(arguments);
    names.emplace_back(verb.name);
  }
  const auto meant = nearest(name, names);
  throw Error{Fault::recipe, {}, fmt::format("there is no verb \"{}\"", name),
              meant ? fmt::format("did you mean {}?", *meant) : "verbs are " + one_of(names)};
}

}  // namespace
}  // namespace tune

int main(int argc, char** argv) {
  tune::keep_freed_memory();
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe must not end a training run
  try {
    return tune::dispatch({argv + 1, argv + argc});
  } catch (const tune::Error& error) {
    fmt::print(stderr, "tune: {}\n", error.what());
    return error.exit_code();
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "tune: out of memory; lower train.per_device_train_batch_size or data.max_length, or set "
                       "train.gradient_checkpointing: true\n");
    return static_cast<int>(tune::Fault::memory);
  } catch (const std::exception& error) {
    fmt::print(stderr, "tune: internal error: {}\n", error.what());
    return static_cast<int>(tune::Fault::running);
  }
}
