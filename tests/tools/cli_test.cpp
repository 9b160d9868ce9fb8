#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "recipes/schema/error.h"
#include "tests/checkpoints/files_helpers.h"
#include "tools/verbs/arguments.h"
#include "tools/verbs/command_line.h"
#include "tools/verbs/verbs.h"
#include "train/plan/known_models.h"

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
  const std::string adapter = (folder / "adapter.gguf").string(), output = (folder / "x").string();
  const Outcome generated =
      tune({"generate", "--model", "m", "--adapter", adapter, "--prompt", "p", "--template", "none"});
  EXPECT_EQ(generated.exit_code, 3);
  EXPECT_THAT(generated.err, HasSubstr("adapter.gguf: is no adapter that can be read; give a PEFT folder"));
  const Outcome exported = tune({"export", "--model", "m", "--adapter", adapter, "--format", "hf", "--output", output});
  EXPECT_EQ(exported.exit_code, 2);
  EXPECT_THAT(exported.err, HasSubstr("adapter.gguf: is a GGUF adapter; make a PEFT folder of it first: tune export"));
}

TEST(CommandLine, DoctorFindsThisMachine) {
  const Outcome outcome = tune({"doctor"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.out;
  for (const char* subject : {"LibTorch", "processor", "threads", "memory", "disk", "GPU"})
    EXPECT_THAT(outcome.out, HasSubstr(subject));
}

TEST(Models, AreListedWithWhatTheyNeed) {
  const Outcome outcome = tune({"models"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.err, IsEmpty());
  for (const char* name : {"llama2-70b-chat", "mixtral-8x7b", "zephyr-7b-beta", "solar-10.7b", "code-llama-34b-python"})
    EXPECT_THAT(outcome.out, HasSubstr(std::string("  ") + name + " "));
  for (const char* fact : {"46.70 B (12.88 B active)", "CC BY-NC 4.0", "codellama-70b", "docs/models.md"})
    EXPECT_THAT(outcome.out, HasSubstr(fact));
}

TEST(Models, JsonIsWhatThePlanComputes) {
  const Outcome outcome = tune({"models", "--json"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.err, IsEmpty());
  const auto models = nlohmann::json::parse(outcome.out);
  std::size_t known = 0;
  for (const ModelFamily& family : known_families()) known += family.models.size();
  ASSERT_EQ(models.size(), known);
  const auto& mixtral =
      *std::find_if(models.begin(), models.end(), [](const auto& m) { return m["name"] == "mixtral-8x7b"; });
  EXPECT_EQ(mixtral["parameters"], 46'702'792'704);
  EXPECT_EQ(mixtral["weights_bytes"], 2 * 46'702'792'704);
  EXPECT_EQ(mixtral["config"]["num_local_experts"], 8);
  // 2 bytes a weight and its activations; and 18 where all are trained: weight, master, gradient, two moments
  EXPECT_GT(mixtral["memory_bytes"]["lora"], 2 * 46'702'792'704);
  EXPECT_LT(mixtral["memory_bytes"]["lora"], 3 * 46'702'792'704);
  EXPECT_NEAR(mixtral["memory_bytes"]["full"].get<double>(), 18 * 46'702'792'704.0, 0.05 * 18 * 46'702'792'704.0);
  EXPECT_GT(mixtral["memory_bytes"]["qlora"], 46'702'792'704 / 2);  // four bits a weight and their scales
  EXPECT_LT(mixtral["memory_bytes"]["qlora"], mixtral["memory_bytes"]["lora"].get<std::int64_t>() / 3);
}

TEST(Models, FitsSaysByWhichMethod) {
  const Outcome outcome = tune({"models", "--fits", "24GiB", "--json"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.err, HasSubstr("models fit into 24.00 GiB"));
  const auto models = nlohmann::json::parse(outcome.out);
  ASSERT_FALSE(models.empty());
  for (const auto& model : models)
    for (const std::string method : {"lora", "full"}) {
      const auto& fits = model["fits"];
      EXPECT_EQ(std::count(fits.begin(), fits.end(), method) > 0,
                model["memory_bytes"][method].get<std::int64_t>() <= std::int64_t{24} << 30)
          << model["name"] << " " << method;
    }
  EXPECT_THAT(tune({"models", "--fits", "24GiB"}).out, Not(HasSubstr("llama2-70b")));
  EXPECT_EQ(nlohmann::json::parse(tune({"models", "--fits", "1GiB", "--json"}).out).size(), 0U);
  EXPECT_EQ(tune({"models", "--fits", "much"}).exit_code, 2);
}

TEST(Models, OneIsShownInFull) {
  const Outcome outcome = tune({"models", "Llama-2-7b-chat-hf"});
  EXPECT_EQ(outcome.exit_code, 0);
  for (const char* fact :
       {"llama2-7b-chat (Llama 2)", "https://arxiv.org/abs/2307.09288", "llama2-7b-lora", "LoRA, GiB"})
    EXPECT_THAT(outcome.out, HasSubstr(fact));
  EXPECT_EQ(nlohmann::json::parse(tune({"models", "zephyr-7b-beta", "--json"}).out)["chat_template"], "zephyr");
  EXPECT_EQ(tune({"models", "llama2-70b", "--fits", "24GiB"}).exit_code, 4);
}

TEST(Models, AnUnknownOneIsAnsweredWithTheNearest) {
  const Outcome outcome = tune({"models", "zefyr-7b-beta"});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(outcome.err, "tune: no model is known as \"zefyr-7b-beta\"; did you mean zephyr-7b-beta?\n");
  EXPECT_THAT(tune({"models", "gpt-9000-ultra"}).err, HasSubstr("`tune models` lists them"));
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
