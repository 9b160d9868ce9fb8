#include "recipes/schema/override.h"

#include <gmock/gmock.h>

#include "tests/recipes/recipe_text.h"

namespace tune {
namespace {

using testing::ElementsAre;

TEST(Override, ReplacesAddsAndKnowsEveryName) {
  const Recipe recipe = parse_recipe(kLeast + "train: {lr: 1.0e-3, global_batch_size: 8}\n", "r.yaml",
                                     {{"train.learning_rate", "2e-5"},
                                      {"train.micro_batch_size", "4"},
                                      {"data.datasets[0].path", "other.jsonl"},
                                      {"data.datasets[1]", "{path: more.jsonl, weight: 0.5}"},
                                      {"data.datasets[0].field_names.content", "q"},
                                      {"adapter.lora_target_modules", "[q_proj, v_proj]"},
                                      {"data.cache_dir", ""},
                                      {"output_dir", "runs/b"}});
  EXPECT_EQ(recipe.train.learning_rate, 2e-5);
  EXPECT_EQ(recipe.train.gradient_accumulation_steps, 2);
  EXPECT_EQ(recipe.data.datasets[0].path, "other.jsonl");
  EXPECT_EQ(recipe.data.datasets[0].field_names.at("content"), "q");
  EXPECT_EQ(recipe.data.datasets[1].weight, 0.5);
  EXPECT_THAT(recipe.adapter.lora_target_modules, ElementsAre("q_proj", "v_proj"));
  EXPECT_EQ(recipe.output_dir, "runs/b");
}

TEST(Override, ComplainsWithTheWholePath) {
  EXPECT_EQ(complaint(kLeast, {{"train.lerning_rate", "1"}}),
            "--set: unknown key \"train.lerning_rate\"; did you mean \"train.learning_rate\"?");
  EXPECT_EQ(complaint(kLeast, {{"train.learning_rate", "fast"}}),
            "--set: train.learning_rate is \"fast\"; it must be a number, above 0 up to 10");
  EXPECT_EQ(complaint(kLeast, {{"data.datasets[3].path", "x"}}),
            "--set: data.datasets[3].path does not lead to a key; data.datasets has 1 elements");
  EXPECT_EQ(complaint(kLeast + "stage: sft\n", {{"stage.x", "1"}}),
            "--set: stage.x does not lead to a key; stage has no keys below it");
  EXPECT_EQ(complaint(kLeast, {{"a..b", "1"}}),
            "--set: \"a..b\" is no path of a key; write it as train.learning_rate or data.datasets[0].path");
  EXPECT_EQ(complaint(kLeast, {{"train.seed", "[1"}}),
            "--set: \"[1\" is no value for train.seed; write it as in a recipe, quoted where YAML asks for it");
}

TEST(Override, RefusesEveryMalformedPath) {
  for (const std::string path :
       {"", ".", "a.", ".a", "a[", "a[]", "a[-1]", "a[x]", "[0]", "a[0]b", "a[99999999999999999999]"})
    EXPECT_THAT(complaint(kLeast, {{path, "1"}}), testing::HasSubstr("is no path of a key")) << path;
}

}  // namespace
}  // namespace tune
