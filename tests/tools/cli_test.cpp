#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>

#include "recipes/schema/error.h"
#include "tests/checkpoints/files_helpers.h"
#include "tools/verbs/arguments.h"
#include "tools/verbs/command_line.h"
#include "tools/verbs/verbs.h"

namespace tune {
namespace {

namespace po = boost::program_options;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

struct Outcome {
  int exit_code = 0;
  std::string out, err;
};

Outcome tune(const std::vector<std::string>& arguments) {
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  Outcome outcome{.exit_code = run_command_line(arguments)};
  std::fflush(stdout);
  outcome.out = ::testing::internal::GetCapturedStdout();
  outcome.err = ::testing::internal::GetCapturedStderr();
  return outcome;
}

po::options_description some_options() {
  po::options_description options("Options");
  options.add_options()("recipe", po::value<std::string>(), "a file")("max-tokens", po::value<int>(), "a number")(
      "json", "a flag");
  return options;
}

std::string refusal(const std::vector<std::string>& arguments) {
  po::variables_map values;
  try {
    parse_arguments(arguments, "eval", "Evaluates.", "tune eval", some_options(), values);
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), 2);
    return error.what();
  }
  return "";
}

TEST(Arguments, AreParsed) {
  po::variables_map values;
  EXPECT_TRUE(
      parse_arguments({"--recipe", "a.yaml", "--max-tokens=7", "--json"}, "eval", "", "", some_options(), values));
  EXPECT_EQ(values["recipe"].as<std::string>(), "a.yaml");
  EXPECT_EQ(values["max-tokens"].as<int>(), 7);
  EXPECT_EQ(values.count("json"), 1u);
}

TEST(Arguments, MisspeltOptionGetsTheRightOne) {
  EXPECT_EQ(refusal({"--recpie", "x"}), "unknown option --recpie; did you mean --recipe? (see tune eval --help)");
  EXPECT_EQ(refusal({"--qqqqqqq"}), "unknown option --qqqqqqq; see tune eval --help");
}

TEST(Arguments, AbbreviationsAreNotGuessed) { EXPECT_THAT(refusal({"--rec", "x"}), HasSubstr("unknown option --rec")); }

TEST(Arguments, MissingAndWrongValuesAndStrayWordsAreRefused) {
  EXPECT_THAT(refusal({"--recipe"}), HasSubstr("--recipe"));
  EXPECT_THAT(refusal({"--max-tokens", "many"}), HasSubstr("many"));
  EXPECT_THAT(refusal({"--recipe", "a", "--recipe", "b"}), HasSubstr("more than once"));
  EXPECT_EQ(refusal({"--json", "stray"}), "\"stray\" belongs to no option; see tune eval --help");
}

TEST(CommandLine, HelpListsTheVerbsOnStdout) {
  const Outcome outcome = tune({"--help"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.err, IsEmpty());
  for (const Verb& verb : verbs()) EXPECT_THAT(outcome.out, HasSubstr(std::string("  ") + verb.name));
}

TEST(CommandLine, EveryVerbHasHelpWithAnExample) {
  for (const Verb& verb : verbs()) {
    const Outcome outcome = tune({verb.name, "--help"});
    EXPECT_EQ(outcome.exit_code, 0) << verb.name << ": " << outcome.err;
    EXPECT_THAT(outcome.out, HasSubstr("Example: ")) << verb.name;
    EXPECT_THAT(outcome.out, HasSubstr(verb.name));
  }
}

TEST(CommandLine, VersionNamesLibTorch) {
  const Outcome outcome = tune({"--version"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.out, ::testing::MatchesRegex("tune [0-9.]+ [(][^\n]+[)]\nLibTorch 2\\.[^\n]+\nCUDA (yes|no)\n"));
}

TEST(CommandLine, UnknownVerbIsAnsweredWithTheNearest) {
  const Outcome outcome = tune({"pln"});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(outcome.err, "tune: there is no verb \"pln\"; did you mean plan?\n");
  EXPECT_THAT(outcome.out, IsEmpty());
  EXPECT_THAT(tune({"my.yaml"}).err, HasSubstr("tune --recipe my.yaml"));
}

TEST(CommandLine, NothingToDo) {
  const Outcome outcome = tune({});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("tune --help"));
}

TEST(CommandLine, RunIsTheDefaultVerb) {
  const Outcome outcome = tune({"--recipe", "no-such-recipe"});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(outcome.err, tune({"run", "--recipe", "no-such-recipe"}).err);
  EXPECT_THAT(outcome.err, HasSubstr("no-such-recipe"));
}

TEST(CommandLine, MessageIsPrintedOnceAndStdoutStaysClean) {
  const Outcome outcome = tune({"plan", "--json"});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.out, IsEmpty());
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1);
}

TEST(CommandLine, RecipesAreListedShownAndCopied) {
  const Outcome list = tune({"recipes", "ls"});
  EXPECT_EQ(list.exit_code, 0) << list.err;
  EXPECT_THAT(list.out, HasSubstr("\nzephyr-support  "));
  EXPECT_EQ(tune({"recipes"}).out, list.out);
  const Outcome show = tune({"recipes", "show", "quickstart"});
  EXPECT_THAT(show.out, HasSubstr("base_model:"));
  EXPECT_THAT(show.err, IsEmpty());

  const TemporaryFolder folder;
  EXPECT_EQ(tune({"recipes", "copy", "quickstart", (folder / "mine.yaml").string()}).exit_code, 0);
  EXPECT_EQ(get(folder / "mine.yaml"), show.out);
  EXPECT_EQ(tune({"recipes", "copy", "quickstart", folder.path().string()}).exit_code, 0);
  EXPECT_EQ(get(folder / "quickstart.yaml"), show.out);
  put(folder / "mine.yaml", "edited");
  const Outcome again = tune({"recipes", "copy", "quickstart", (folder / "mine.yaml").string()});
  EXPECT_EQ(again.exit_code, 2);
  EXPECT_EQ(get(folder / "mine.yaml"), "edited");
  EXPECT_THAT(tune({"recipes", "show", "quikstart"}).err, HasSubstr("quickstart"));
  EXPECT_EQ(tune({"recipes", "copy", "quickstart"}).exit_code, 2);
}

TEST(CommandLine, GenerateRefusesWhatNoAnswerCanHave) {
  const auto refusal = [](const char* option, const char* value) {
    const Outcome outcome = tune({"generate", "--model", "m", "--prompt", "p", option, value});
    EXPECT_EQ(outcome.exit_code, 2);
    return outcome.err;
  };
  EXPECT_THAT(refusal("--max-tokens", "-3"), HasSubstr("--max-tokens is -3; it must be 1 or more"));
  EXPECT_THAT(refusal("--temperature", "-1"), HasSubstr("--temperature is -1; it must be 0 or more"));
  EXPECT_THAT(refusal("--temperature", "nan"), HasSubstr("--temperature is nan"));
}

TEST(CommandLine, AdapterMustBeAPeftFolderOrItsWeights) {
  const TemporaryFolder folder;
  put(folder / "adapter.gguf", "GGUF");
  for (const char* verb : {"generate", "export"}) {
    std::vector<std::string> arguments = {verb, "--model", "m", "--adapter", (folder / "adapter.gguf").string()};
    const auto more = std::string(verb) == "generate"
                          ? std::vector<std::string>{"--prompt", "p", "--template", "none"}
                          : std::vector<std::string>{"--format", "hf", "--output", (folder / "x").string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Outcome outcome = tune(arguments);
    EXPECT_EQ(outcome.exit_code, 3);
    EXPECT_THAT(outcome.err, HasSubstr("adapter.gguf: is no adapter that can be read; give a PEFT folder")) << verb;
  }
}

TEST(CommandLine, DoctorFindsThisMachine) {
  const Outcome outcome = tune({"doctor"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.out;
  for (const char* subject : {"LibTorch", "processor", "threads", "memory", "disk", "GPU"})
    EXPECT_THAT(outcome.out, HasSubstr(subject));
}

TEST(CommandLine, CompletionKnowsEveryVerb) {
  const Outcome outcome = tune({"completion", "bash"});
  EXPECT_EQ(outcome.exit_code, 0);
  for (const Verb& verb : verbs()) EXPECT_THAT(outcome.out, HasSubstr(verb.name));
  EXPECT_THAT(outcome.out, Not(HasSubstr("VERBS")));
  EXPECT_EQ(tune({"completion", "fish"}).exit_code, 2);
}

}  // namespace
}  // namespace tune
