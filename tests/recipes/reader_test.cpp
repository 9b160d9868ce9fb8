#include "recipes/schema/reader.h"

#include <gmock/gmock.h>

#include "tests/recipes/recipe_text.h"

namespace tune {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

TEST(Reader, ReportsTenMistakesAtOnceWithTheirPlaces) {
  const std::string yaml = R"(model: {base_model: /models/zephyr, dtype: bf61}
stage: kto
adapter:
  lora_rnak: 8
  lora_r: 0
  lora_alpha: "32"
data:
  max_length: 2k
  packing: yes
  datasets:
    - {path: a.jsonl, type: chat, wieght: 2}
  seed: 4
train: {warmup_ratio: 1.5}
fsdp: {}
)";
  EXPECT_EQ(complaint(yaml),
            "r.yaml:1:44: dtype is \"bf61\"; did you mean bf16? It may be fp32, bf16 or fp16\n"
            "r.yaml:2:8: stage is \"kto\"; write stage: dpo and preference.loss_type: kto\n"
            "r.yaml:4:3: unknown key \"lora_rnak\"; did you mean \"lora_r\"?\n"
            "r.yaml:5:11: lora_r is 0; it must be a whole number, 1 to 1024\n"
            "r.yaml:6:15: lora_alpha is the text \"32\"; write the number without quotes\n"
            "r.yaml:8:15: max_length is \"2k\"; it must be a whole number, 8 to 1048576\n"
            "r.yaml:9:12: packing is \"yes\"; it must be true or false\n"
            "r.yaml:11:35: unknown key \"wieght\"; did you mean \"weight\"?\n"
            "r.yaml:12:3: unknown key \"seed\"; did you mean \"train.seed\"?\n"
            "r.yaml:13:23: warmup_ratio is 1.5; it must be a number, 0 to 1\n"
            "r.yaml:14:1: unknown key \"fsdp\"; write distributed.strategy: shard");
}

TEST(Reader, FillsEveryKeyOfTheContract) {
  const Recipe recipe = parse_recipe(R"(
model: {base_model: /models/zephyr-7b-beta, dtype: fp32}
stage: sft
adapter: {type: lora, lora_r: 8, lora_alpha: 64, lora_dropout: 0.05, lora_target_modules: [q_proj, v_proj]}
data:
  chat_template: zephyr
  overflow: truncate
  packing: false
  train_on: last
  datasets:
    - {path: a.csv, type: prompt_completion, weight: 0.5, field_names: {prompt: q}}
    - {path: c.jsonl, field_roles: {bot: assistant}}
  eval_datasets: [{path: b.jsonl, holdout_every: 10}]
train: {max_steps: 7, learning_rate: 2.0e-4, lr_scheduler_type: wsd, optim: sgd, device: cuda, precision: fp32}
eval: {eval_steps: 100, sample_prompts: ["Hello?", "two: 2"]}
export: [{format: gguf-lora}, {format: gguf, quant: q8_0}, {format: hf}]
output_dir: runs/x
)",
                                     "r.yaml");
  EXPECT_EQ(recipe.model.base_model, "/models/zephyr-7b-beta");
  EXPECT_EQ(recipe.model.dtype, Dtype::fp32);
  EXPECT_EQ(recipe.adapter.lora_r, 8);
  EXPECT_EQ(recipe.adapter.lora_dropout, 0.05);
  EXPECT_THAT(recipe.adapter.lora_target_modules, ElementsAre("q_proj", "v_proj"));
  EXPECT_EQ(recipe.data.overflow, Overflow::truncate);
  EXPECT_FALSE(recipe.data.packing);
  EXPECT_EQ(recipe.data.train_on, TrainOn::last);
  EXPECT_EQ(recipe.data.datasets.at(0).type, DatasetType::prompt_completion);
  EXPECT_THAT(recipe.data.datasets.at(0).field_names, ElementsAre(Pair("prompt", "q")));
  EXPECT_THAT(recipe.data.datasets.at(1).field_roles, ElementsAre(Pair("bot", "assistant")));
  EXPECT_EQ(recipe.data.eval_datasets.at(0).holdout_every, 10);
  EXPECT_EQ(recipe.train.learning_rate, 2e-4);
  EXPECT_EQ(recipe.train.lr_scheduler_type, Scheduler::wsd);
  EXPECT_EQ(recipe.train.device, Device::cuda);
  EXPECT_THAT(recipe.eval.sample_prompts, ElementsAre("Hello?", "two: 2"));
  EXPECT_EQ(recipe.exports.at(0).format, ExportFormat::gguf_lora);
  EXPECT_EQ(recipe.exports.at(0).quant, std::nullopt);
  EXPECT_EQ(recipe.exports.at(1).quant, Quant::q8_0);
  EXPECT_EQ(recipe.exports.at(2).quant, kDefaultQuant);
  EXPECT_EQ(recipe.output_dir, "runs/x");
  EXPECT_EQ(recipe.save.save_total_limit, SaveOptions{}.save_total_limit);  // not given: the struct's default
}

TEST(Reader, TakesNamesOfOtherToolsAndSaysSoOnce) {
  std::vector<std::string> notes;
  const Recipe recipe = parse_recipe(
      "model: {model_name_or_path: base}\nadapter: {lora_rank: 4}\n"
      "data: {sequence_len: 64, datasets: [{path: a}, {path: b}]}\ntrain: {lr: 1e-3, micro_batch_size: 2}\n",
      "r.yaml", {}, &notes);
  EXPECT_EQ(recipe.adapter.lora_r, 4);
  EXPECT_EQ(recipe.data.max_length, 64);
  EXPECT_EQ(recipe.train.learning_rate, 1e-3);
  EXPECT_EQ(recipe.train.per_device_train_batch_size, 2);
  EXPECT_THAT(notes, ElementsAre("model_name_or_path is called base_model here", "lora_rank is called lora_r here",
                                 "sequence_len is called max_length here", "lr is called learning_rate here",
                                 "micro_batch_size is called per_device_train_batch_size here"));
}

TEST(Reader, RefusesTwoNamesOfOneKeyAndOneNameTwice) {
  EXPECT_EQ(
      complaint(kLeast + "train: {learning_rate: 1.0e-4, lr: 1.0e-3}\n"),
      "r.yaml:3:32: learning_rate is given under two names; lr is another name for learning_rate, keep the latter");
  EXPECT_EQ(complaint(kLeast + "stage: sft\nstage: sft\n"),
            "r.yaml:4:1: \"stage\" is given twice, first on line 3; keep one of them");
}

TEST(Reader, NamesWhatIsMissing) {
  EXPECT_EQ(complaint(""),
            "r.yaml: model.base_model is missing; give it a value\nr.yaml: data.datasets is missing; give it a value");
  EXPECT_EQ(complaint("model: {}\ndata: {datasets: [{type: chat}]}\n"),
            "r.yaml:1:8: base_model is missing; give it a value\nr.yaml:2:19: path is missing; give it a value");
  EXPECT_EQ(complaint("model: {base_model: }\ndata: {datasets: []}\n"),
            "r.yaml:1:21: base_model has no value; give one or leave the key out\n"
            "r.yaml:2:18: datasets is a list; it must be a list with at least one element");
}

TEST(Reader, ExpandsTheEnvironmentInPathsOnly) {
  setenv("RECIPE_TEST_FOLDER", "/here/$(id)", 1);
  unsetenv("RECIPE_TEST_UNSET");
  const Recipe recipe = parse_recipe(
      "model: {base_model: '${RECIPE_TEST_FOLDER}/m'}\ndata: {datasets: [{path: '~/$${x}'}]}\n"
      "eval: {sample_prompts: ['${RECIPE_TEST_FOLDER}']}\n",
      "r.yaml");
  EXPECT_EQ(recipe.model.base_model, "/here/$(id)/m");
  EXPECT_EQ(recipe.data.datasets[0].path, "~/${x}");
  EXPECT_THAT(recipe.eval.sample_prompts, ElementsAre("${RECIPE_TEST_FOLDER}"));

  EXPECT_EQ(complaint(kLeast + "output_dir: ${RECIPE_TEST_UNSET}/x\n"),
            "r.yaml:3:13: output_dir: the environment variable RECIPE_TEST_UNSET is not set; "
            "export RECIPE_TEST_UNSET=… before you start, or write the path out");
  EXPECT_THAT(complaint(kLeast + "output_dir: ${oops\n"),
              HasSubstr("r.yaml:3:13: output_dir: \"${oops\" holds ${ without"));
  setenv("RECIPE_TEST_FOLDER", "a\nb", 1);
  EXPECT_THAT(complaint(kLeast + "output_dir: ${RECIPE_TEST_FOLDER}\n"),
              HasSubstr("holds a control character: \"a\\x0ab\""));
}

TEST(Reader, DerivesTheThirdBatchSize) {
  const auto sizes = [](const std::string& train) {
    const TrainOptions options = parse_recipe(kLeast + "train: {" + train + "}\n", "r.yaml").train;
    return std::vector{options.global_batch_size, options.per_device_train_batch_size,
                       options.gradient_accumulation_steps};
  };
  EXPECT_THAT(sizes("global_batch_size: 64, per_device_train_batch_size: 4"), ElementsAre(64, 4, 16));
  EXPECT_THAT(sizes("global_batch_size: 64, gradient_accumulation_steps: 4"), ElementsAre(64, 16, 4));
  EXPECT_THAT(sizes("per_device_train_batch_size: 3, gradient_accumulation_steps: 4"), ElementsAre(12, 3, 4));
  EXPECT_THAT(sizes("per_device_train_batch_size: 3"), ElementsAre(3, 3, 1));
  EXPECT_THAT(sizes("gradient_accumulation_steps: 4"), ElementsAre(32, 8, 4));
  EXPECT_THAT(sizes("global_batch_size: 20"), ElementsAre(20, 5, 4));
  EXPECT_THAT(sizes(""), ElementsAre(8, 8, 1));
}

TEST(Reader, ShowsTheArithmeticOfBatchSizesThatContradictEachOther) {
  EXPECT_EQ(
      complaint(kLeast +
                "train: {global_batch_size: 64, per_device_train_batch_size: 4, gradient_accumulation_steps: 8}\n"),
      "r.yaml:3:28: global_batch_size is 64, but 4 per device x 8 accumulation steps = 32; "
      "give two of the three, the third is derived");
  EXPECT_EQ(complaint(kLeast + "train: {global_batch_size: 64, per_device_train_batch_size: 7}\n"),
            "r.yaml:3:28: global_batch_size 64 is no multiple of per_device_train_batch_size 7; 63 or 70 would be");
}

TEST(Reader, NamesAFileThatIsNotThere) {
  try {
    read_recipe("no/such.yaml");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "no/such.yaml: there is no such recipe; `tune recipes ls` lists those shipped");
  }
}

}  // namespace
}  // namespace tune
