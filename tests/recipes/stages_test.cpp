#include <gmock/gmock.h>

#include "recipes/schema/writer.h"
#include "tests/recipes/recipe_text.h"

namespace tune {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::string kTwo =
    "model: {base_model: base}\n"
    "adapter: {lora_r: 8, lora_target_modules: [q_proj, v_proj]}\n"
    "data: {chat_template: zephyr, packing: false}\n"
    "train: {lr: 1.0e-4, seed: 7}\n"
    "stages:\n"
    "  - stage: sft\n"
    "    data: {datasets: [{path: chats.jsonl}]}\n"
    "  - stage: dpo\n"
    "    data: {datasets: [{path: pairs.jsonl, type: preference}], packing: true}\n"
    "    preference: {beta: 0.05}\n"
    "    train: {learning_rate: 5.0e-6}\n"
    "export: [{format: adapter}, {format: hf}]\n"
    "output_dir: runs/zephyr\n";

Stages stages_of(const std::string& yaml, const std::vector<Override>& overrides = {}) {
  return parse_stages(yaml, "r.yaml", overrides);
}

// The text with `old` replaced, which must be there.
std::string with(std::string text, const std::string& old, const std::string& now) {
  const std::size_t at = text.find(old);
  EXPECT_NE(at, std::string::npos) << old;
  return text.replace(at, old.size(), now);
}

TEST(Stages, MergeTheirKeysOverWhatTheyShare) {
  const Stages all = stages_of(kTwo);
  ASSERT_EQ(all.recipes.size(), 2U);
  EXPECT_TRUE(all.listed);
  EXPECT_EQ(all.output_dir, "runs/zephyr");
  const Recipe &sft = all.recipes[0], &dpo = all.recipes[1];
  EXPECT_EQ(sft.stage, Stage::sft);
  EXPECT_EQ(dpo.stage, Stage::dpo);
  EXPECT_EQ(sft.train.learning_rate, 1e-4);
  EXPECT_EQ(dpo.train.learning_rate, 5e-6) << "under whichever name";
  EXPECT_EQ(dpo.train.seed, 7) << "sections are merged key by key";
  EXPECT_EQ(dpo.data.chat_template, "zephyr");
  EXPECT_FALSE(sft.data.packing);
  EXPECT_TRUE(dpo.data.packing);
  ASSERT_EQ(dpo.data.datasets.size(), 1U);
  EXPECT_EQ(dpo.data.datasets[0].path, "pairs.jsonl");
  EXPECT_EQ(dpo.preference.beta, 0.05);
  EXPECT_THAT(dpo.adapter.lora_target_modules, ElementsAre("q_proj", "v_proj"));
  EXPECT_EQ(sft.exports.size(), 0U) << "the end of it all is handed over";
  EXPECT_EQ(dpo.exports.size(), 2U);
}

TEST(Stages, ListsReplaceListsAndAStageMayExportItself) {
  const Stages all =
      stages_of(with(with(kTwo, "  - stage: sft\n", "  - export: [{format: gguf-lora}]\n"),
                     "    preference:", "    adapter: {lora_target_modules: [q_proj, v_proj]}\n    preference:"));
  ASSERT_EQ(all.recipes[0].exports.size(), 1U);
  EXPECT_EQ(all.recipes[0].exports[0].format, ExportFormat::gguf_lora);
  EXPECT_EQ(all.recipes[0].stage, Stage::sft) << "the default";
  EXPECT_EQ(all.recipes[0].output_dir, "runs/zephyr/1-sft");
  EXPECT_THAT(all.recipes[1].adapter.lora_target_modules, ElementsAre("q_proj", "v_proj"));
}

TEST(Stages, EachGoesOnFromWhatTheOneBeforeHasMade) {
  const Stages adapters = stages_of(kTwo);
  EXPECT_EQ(adapters.recipes[0].adapter.init_adapter, "");
  EXPECT_EQ(adapters.recipes[0].output_dir, "runs/zephyr/1-sft");
  EXPECT_EQ(adapters.recipes[1].adapter.init_adapter, "runs/zephyr/1-sft/final");
  EXPECT_EQ(adapters.recipes[1].model.base_model, "base");
  EXPECT_EQ(adapters.recipes[1].output_dir, "runs/zephyr/2-dpo");

  const std::string shared = "adapter: {lora_r: 8, lora_target_modules: [q_proj, v_proj]}\n";
  const Stages full = stages_of(with(with(kTwo, shared, "adapter: {type: none}\n"), "[{format: adapter}, ", "["));
  EXPECT_EQ(full.recipes[1].model.base_model, "runs/zephyr/1-sft/final");
  EXPECT_EQ(full.recipes[1].adapter.init_adapter, "");

  // full, then two of LoRA on what it leaves
  const Stages three =
      stages_of(with(with(kTwo, "  - stage: sft\n", "  - adapter: {type: none}\n"),
                     "export: ", "  - stage: sft\n    data: {datasets: [{path: more.jsonl}]}\nexport: "));
  EXPECT_EQ(three.recipes[1].model.base_model, "runs/zephyr/1-sft/final");
  EXPECT_EQ(three.recipes[1].adapter.init_adapter, "");
  EXPECT_EQ(three.recipes[2].model.base_model, "runs/zephyr/1-sft/final");
  EXPECT_EQ(three.recipes[2].adapter.init_adapter, "runs/zephyr/2-dpo/final");
}

TEST(Stages, GoOnFromThatPissaHasLeft) {
  const std::string pissa = "adapter: {init_lora_weights: pissa, lora_alpha: 16, rank_pattern: {q_proj: 4}, ";
  const std::string text = with(kTwo, "adapter: {", pissa);
  const Stages all =
      stages_of(with(text, "export: ", "  - stage: sft\n    data: {datasets: [{path: more.jsonl}]}\nexport: "));
  EXPECT_EQ(all.recipes[0].adapter.init_lora_weights, LoraInit::pissa);
  EXPECT_EQ(all.recipes[0].adapter.lora_r, 8);
  for (const std::size_t later : {1U, 2U}) {
    const AdapterOptions& adapter = all.recipes[later].adapter;
    EXPECT_EQ(adapter.init_lora_weights, LoraInit::standard) << "its adapter is no fresh one";
    EXPECT_EQ(adapter.lora_r, 16);
    EXPECT_EQ(adapter.lora_alpha, 32);
    EXPECT_EQ(adapter.rank_pattern.at("q_proj"), 8);
  }
  EXPECT_THAT(complaint(with(text, "    preference:", "    adapter: {init_lora_weights: pissa}\n    preference:")),
              HasSubstr("init_lora_weights is pissa, but init_adapter is what training starts from"));
}

TEST(Stages, AreRecipesOfTheirOwn) {
  for (const Recipe& recipe : stages_of(kTwo).recipes) {
    const std::string written = write_recipe(recipe);
    EXPECT_EQ(write_recipe(parse_recipe(written, "written.yaml")), written);
  }
  EXPECT_EQ(complaint(kTwo), "r.yaml: the recipe has stages, and one is wanted here; give a stage's own recipe.yaml");
  EXPECT_FALSE(parse_stages(kLeast, "r.yaml").listed);
}

TEST(Stages, EnvironmentIsExpandedOnce) {
  setenv("RECIPE_TEST_FOLDER", "/a/$${b}", 1);
  const Stages all = stages_of(with(kTwo, "runs/zephyr", "${RECIPE_TEST_FOLDER}/x/"));
  EXPECT_EQ(all.recipes[1].output_dir, "/a/$${b}/x/2-dpo");
  EXPECT_EQ(all.recipes[1].adapter.init_adapter, "/a/$${b}/x/1-sft/final");
  EXPECT_EQ(all.output_dir, "/a/$${b}/x");
}

TEST(Stages, ChangesAreForAllOrForOne) {
  const Stages all = stages_of(kTwo, {{"train.seed", "1"},
                                      {"stages[1].train.lr", "1e-6"},
                                      {"stages[1].train.seed", "2"},
                                      {"stages[0].data.datasets[0].path", "others.jsonl"},
                                      {"train.max_steps", "3"},
                                      {"export", "[{format: gguf-lora}]"},
                                      {"output_dir", "runs/b"}});
  EXPECT_EQ(all.recipes[0].train.seed, 1);
  EXPECT_EQ(all.recipes[1].train.seed, 2) << "the one that names the stage wins";
  EXPECT_EQ(all.recipes[0].train.learning_rate, 1e-4);
  EXPECT_EQ(all.recipes[1].train.learning_rate, 1e-6);
  EXPECT_EQ(all.recipes[0].data.datasets[0].path, "others.jsonl");
  EXPECT_EQ(all.recipes[0].train.max_steps, 3);
  EXPECT_EQ(all.recipes[1].train.max_steps, 3);
  EXPECT_TRUE(all.recipes[0].exports.empty());
  EXPECT_EQ(all.recipes[1].exports.at(0).format, ExportFormat::gguf_lora);
  EXPECT_EQ(all.recipes[1].adapter.init_adapter, "runs/b/1-sft/final");
  EXPECT_EQ(stages_of(kTwo, {{"train.learning_rate", "3e-5"}}).recipes[1].train.learning_rate, 3e-5)
      << "of all, whatever a stage says";

  EXPECT_EQ(complaint(kTwo, {{"stages[2].train.seed", "1"}}),
            "--set: stages[2].train.seed does not lead to a key; stages has 2 elements");
  EXPECT_EQ(complaint(kLeast, {{"stages[0].train.seed", "1"}}),
            "--set: stages[0].train.seed does not lead to a key; the recipe has no stages");
  EXPECT_EQ(
      complaint(kTwo, {{"stages[1].model.base_model", "x"}}),
      "--set: base_model is given in stage 2; leave it out: a later stage goes on from what the one before has made");
}

TEST(Stages, MistakesHaveTheirPlaces) {
  EXPECT_EQ(complaint(with(with(with(kTwo, "lora_r: 8", "lora_r: 0"), "{beta: 0.05}", "{bata: 0.05}"), "stage: sft",
                           "stage: stf")),
            "r.yaml:2:19: lora_r is 0; it must be a whole number, 1 to 1024\n"
            "r.yaml:6:12: stage is \"stf\"; did you mean sft? It may be pretrain, sft or dpo\n"
            "r.yaml:10:18: unknown key \"bata\"; did you mean \"beta\"?")
      << "what both share is told once";
  EXPECT_EQ(
      complaint(with(kTwo, "    preference:",
                     "    output_dir: x\n    adapter: {init_adapter: y}\n    model: {base_model: z}\n    preference:")),
      "r.yaml:10:5: output_dir is given in stage 2; give it once, outside of stages: each stage has a folder of its "
      "own in it\n"
      "r.yaml:11:15: init_adapter is given in stage 2; leave it out: a later stage goes on from what the one before "
      "has "
      "made\n"
      "r.yaml:12:13: base_model is given in stage 2; leave it out: a later stage goes on from what the one before has "
      "made");
  EXPECT_EQ(complaint(kLeast + "stages: []\n"),
            "r.yaml:3:9: stages is a list; it must be a list of 1 to 32 sections: [{stage: sft, …}, {stage: dpo, …}]");
  EXPECT_EQ(complaint(kLeast + "stages: sft\n"),
            "r.yaml:3:9: stages is \"sft\"; it must be a list of 1 to 32 sections: [{stage: sft, …}, {stage: dpo, …}]");
  EXPECT_EQ(complaint(kLeast + "stages: [sft]\n"),
            "r.yaml:3:10: stage 1 is \"sft\"; it must be a section with keys of the recipe");
}

TEST(Stages, ThatCannotFollowEachOtherAreRefused) {
  EXPECT_EQ(complaint(with(kTwo, "    preference:", "    adapter: {type: none}\n    preference:")).substr(0, 78),
            "r.yaml:10:21: stage 2 trains all weights, but stage 1 leaves an adapter; write");
  EXPECT_EQ(complaint(with(kTwo, "    preference:", "    adapter: {lora_r: 16}\n    preference:")),
            "r.yaml:10:23: stage 2 has another adapter.lora_r than stage 1; leave it out there: its adapter goes on "
            "learning");
  EXPECT_THAT(complaint(with(kTwo, "    preference:", "    train: {device: cpu}\n    preference:")),
              HasSubstr("\"train\" is given twice"));
  EXPECT_THAT(
      complaint(with(kTwo, "    preference:", "    distributed: {timeout_seconds: 9}\n    preference:")),
      HasSubstr("stage 2 has another distributed.timeout_seconds than stage 1; leave it out there: the ranks meet"));
}

}  // namespace
}  // namespace tune
