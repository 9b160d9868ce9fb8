#include <gmock/gmock.h>

#include <fstream>
#include <iterator>

#include "recipes/schema/fields.h"
#include "recipes/schema/lookup.h"
#include "recipes/schema/writer.h"
#include "tests/recipes/recipe_text.h"

namespace tune {
namespace {

using testing::HasSubstr;

const std::string kSource = TUNE_SOURCE_DIR;

std::string text_of(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

TEST(ShippedRecipes, AllParseAndReadBackAsWritten) {
  set_recipe_environment();
  const auto files = list_recipes(kSource + "/recipes");
  ASSERT_GE(files.size(), 4U);
  for (const auto& file : files) {
    std::vector<std::string> notes;
    const Stages all = read_stages(file, {}, &notes);
    EXPECT_TRUE(notes.empty()) << file << " uses names of other tools";
    for (const Recipe& recipe : all.recipes) {
      const std::string written = write_recipe(recipe);
      EXPECT_EQ(write_recipe(parse_recipe(written, "written.yaml")), written) << file;
    }
  }
}

TEST(ShippedRecipes, BeginWithWhatNeedsAndCommand) {
  for (const auto& file : list_recipes(kSource + "/recipes")) {
    const std::string text = text_of(file);
    for (const char* head : {"# What: ", "# Needs: ", "# Command: "}) EXPECT_THAT(text, HasSubstr(head)) << file;
  }
}

TEST(ShippedRecipes, QuickstartAsksWhatItHoldsOut) {
  set_recipe_environment();
  const Recipe recipe = read_recipe(kSource + "/recipes/quickstart.yaml");
  EXPECT_EQ(recipe.data.datasets[0].path, recipe.data.eval_datasets[0].path);
  EXPECT_EQ(recipe.data.datasets[0].holdout_every, recipe.data.eval_datasets[0].holdout_every);
  const std::filesystem::path rows = kSource + "/../shared/data/construction-faq/faq-en.jsonl";
  if (!std::filesystem::exists(rows)) GTEST_SKIP() << "no construction-faq beside the project";
  std::ifstream stream(rows);
  std::string line;
  std::size_t found = 0;
  for (std::int64_t index = 0; std::getline(stream, line); ++index)
    for (const std::string& prompt : recipe.eval.sample_prompts)
      if (line.find("\"q\":\"" + prompt + "\"") != std::string::npos) {
        EXPECT_EQ(index % recipe.data.eval_datasets[0].holdout_every, 0);
        ++found;
      }
  EXPECT_EQ(found, recipe.eval.sample_prompts.size());
}

TEST(Documentation, KnowsEveryKeyAndItsOtherNames) {
  const std::string page = text_of(kSource + "/docs/recipe.md");
  for (const FieldDoc& doc : field_docs()) {
    // eval_datasets has the keys of datasets, documented once
    if (doc.path.starts_with("data.eval_datasets[]")) continue;
    EXPECT_THAT(page, HasSubstr("`" + doc.path + "`"));
    for (const std::string& alias : doc.aliases) EXPECT_THAT(page, HasSubstr("`" + alias + "`")) << doc.path;
    EXPECT_FALSE(doc.help.empty()) << doc.path;
  }
}

TEST(Lookup, FindsByPathByNameAndWithoutYaml) {
  const std::filesystem::path installed = kSource + "/recipes";
  EXPECT_TRUE(equivalent(find_recipe("quickstart", installed), installed / "quickstart.yaml"));
  EXPECT_TRUE(equivalent(find_recipe("quickstart.yaml", installed), installed / "quickstart.yaml"));
  EXPECT_TRUE(equivalent(find_recipe(kSource + "/recipes/quickstart", "/nowhere"), installed / "quickstart.yaml"));
}

TEST(Lookup, NamesTheNearest) {
  const auto complaint_of = [](const std::string& name) {
    try {
      find_recipe(name, kSource + "/recipes");
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(complaint_of("quikstart"), "there is no recipe \"quikstart\"; did you mean quickstart?");
  EXPECT_THAT(complaint_of("gpt9"),
              testing::AllOf(HasSubstr("there is no recipe \"gpt9\"; shipped are code-llama-"),
                             HasSubstr(", llama2-7b-full, llama2-7b-full-8bit, llama2-7b-lora, ")));
  EXPECT_THAT(complaint_of(""), HasSubstr("there is no recipe \"\""));
}

TEST(Writer, KeepsTextThatLooksLikeYaml) {
  Recipe recipe = parse_recipe(kLeast, "r.yaml");
  recipe.eval.sample_prompts = {"a: b", "- x", "\"quoted\" \\ #", "tab\tnewline\nend", "${HOME}", "yes",
                                "12",   "",    "ü 日本 🙂"};
  recipe.data.datasets[0].path = "${not a variable}/$${x}";
  recipe.data.datasets[0].field_names = {{"content", "the: \"question\""}};
  recipe.train.learning_rate = 0.1 + 0.2;  // needs all 17 digits
  recipe.train.adam_epsilon = 1e-300;
  recipe.exports = {{ExportFormat::gguf_lora}, {ExportFormat::gguf, Quant::f16}};
  const Recipe again = parse_recipe(write_recipe(recipe), "again.yaml");
  EXPECT_EQ(again.eval.sample_prompts, recipe.eval.sample_prompts);
  EXPECT_EQ(again.data.datasets[0].path, recipe.data.datasets[0].path);
  EXPECT_EQ(again.data.datasets[0].field_names, recipe.data.datasets[0].field_names);
  EXPECT_EQ(again.train.learning_rate, recipe.train.learning_rate);
  EXPECT_EQ(again.train.adam_epsilon, recipe.train.adam_epsilon);
  EXPECT_EQ(again.exports[0].format, ExportFormat::gguf_lora);
  EXPECT_EQ(again.exports[0].quant, std::nullopt);
  EXPECT_EQ(again.exports[1].quant, Quant::f16);
  EXPECT_EQ(again.model.dtype, std::nullopt);
}

}  // namespace
}  // namespace tune
