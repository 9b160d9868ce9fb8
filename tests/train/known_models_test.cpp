#include "train/plan/known_models.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>

#include "recipes/schema/lookup.h"
#include "recipes/schema/reader.h"
#include "train/plan/plan.h"

namespace tune {
namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

const ModelConfig& config_of(const std::string& name) {
  const KnownModel* model = find_known_model(name);
  if (model == nullptr) throw std::runtime_error("not known: " + name);
  return model->config;
}

// As published: the sum of the tensors in each model's own safetensors files.
TEST(KnownModels, HaveTheirPublishedParameters) {
  const std::map<std::string, std::int64_t> published = {{"llama2-7b", 6'738'415'616},
                                                         {"llama2-13b-chat", 13'015'864'320},
                                                         {"llama2-70b", 68'976'648'192},
                                                         {"mistral-7b", 7'241'732'096},
                                                         {"zephyr-7b-beta", 7'241'732'096},
                                                         {"mixtral-8x7b-instruct", 46'702'792'704},
                                                         {"solar-10.7b", 10'731'524'096},
                                                         {"code-llama-7b", 6'738'546'688},
                                                         {"code-llama-7b-python", 6'738'415'616},
                                                         {"code-llama-13b-instruct", 13'016'028'160},
                                                         {"code-llama-34b-python", 33'743'970'304},
                                                         {"code-llama-70b-instruct", 68'976'910'336},
                                                         {"tinyllama-1.1b-chat", 1'100'048'384}};
  for (const auto& [name, parameters] : published) EXPECT_EQ(total_parameters(config_of(name)), parameters) << name;
}

TEST(KnownModels, OfAMixtureOnlySomeExpertsAct) {
  EXPECT_NEAR(static_cast<double>(active_parameters(config_of("mixtral-8x7b"))), 12.9e9, 0.05e9);
  EXPECT_EQ(active_parameters(config_of("llama2-7b")), total_parameters(config_of("llama2-7b")));
}

TEST(KnownModels, DifferWhereTheirConfigurationsDo) {
  EXPECT_EQ(config_of("zephyr-7b-beta").sliding_window, 4096);
  EXPECT_EQ(config_of("mixtral-8x7b").sliding_window, 0);
  EXPECT_EQ(config_of("mixtral-8x7b").rope_theta, 1e6);
  EXPECT_EQ(config_of("llama2-70b").num_key_value_heads, 8);
  EXPECT_EQ(config_of("llama2-13b").num_key_value_heads, 40);
  EXPECT_EQ(config_of("code-llama-34b").vocab_size, 32000);
  EXPECT_EQ(config_of("code-llama-13b").vocab_size, 32016);
  EXPECT_EQ(config_of("code-llama-13b-python").vocab_size, 32000);
  EXPECT_EQ(config_of("code-llama-13b").max_position_embeddings, 16384);
  EXPECT_EQ(config_of("code-llama-70b-instruct").max_position_embeddings, 4096);
  EXPECT_EQ(config_of("code-llama-70b-instruct").rope_theta, 1e4);
  EXPECT_EQ(config_of("code-llama-70b").rope_theta, 1e6);
}

TEST(KnownModels, AreFoundByEveryName) {
  const KnownModel* chat = find_known_model("llama2-7b-chat");
  ASSERT_NE(chat, nullptr);
  EXPECT_EQ(find_known_model("meta-llama/Llama-2-7b-chat-hf"), chat);
  EXPECT_EQ(find_known_model("llama-2-7B-chat-hf"), chat);
  EXPECT_EQ(find_known_model("llama2"), nullptr);
  EXPECT_EQ(find_known_model(""), nullptr);
  EXPECT_EQ(family_of(*chat).name, "Llama 2");
}

TEST(KnownModels, AreComplete) {
  std::set<std::string> names, repositories;
  for (const ModelFamily& family : known_families()) {
    EXPECT_FALSE(family.languages.empty() || family.strengths.empty() || family.limits.empty()) << family.name;
    EXPECT_FALSE(family.sources.empty()) << family.name;
    for (const KnownModel& model : family.models) {
      EXPECT_TRUE(names.insert(model.name).second) << model.name;
      EXPECT_TRUE(repositories.insert(model.repository).second) << model.repository;
      EXPECT_FALSE(model.licence.empty() || model.published.empty()) << model.name;
      EXPECT_TRUE(!model.infilling || model.config.vocab_size == 32016) << model.name;
    }
  }
}

// What the recipe's base_model is in the full size.
ModelConfig base_of(const Recipe& recipe) {
  const std::string folder = std::filesystem::path(recipe.model.base_model).filename();
  if (const KnownModel* model = find_known_model(folder)) return model->config;
  ModelConfig config = config_of("mistral-7b");
  if (folder == "mistral-10.7b") {  // made by tune upscale
    config.num_hidden_layers = 48;
    return config;
  }
  if (!folder.starts_with("SmolLM2-135M")) throw std::runtime_error("no model is known for " + recipe.file);
  return {.model_type = "llama",
          .vocab_size = 49152,
          .hidden_size = 576,
          .intermediate_size = 1536,
          .num_hidden_layers = 30,
          .num_attention_heads = 9,
          .num_key_value_heads = 3,
          .head_dim = 64,
          .max_position_embeddings = 8192,
          .tie_word_embeddings = true};
}

class ShippedRecipe : public ::testing::TestWithParam<std::filesystem::path> {
 protected:
  void SetUp() override {
    for (const char* name : {"TUNE_MODELS", "TUNE_DATA", "TUNE_QUICKSTART"}) setenv(name, "/somewhere", 0);
    recipes_ = read_stages(GetParam()).recipes;
  }
  std::vector<Recipe> recipes_;
};

TEST_P(ShippedRecipe, IsPlannedForItsOwnModelInFullSize) {
  for (const Recipe& recipe : recipes_) {
    const ModelConfig config = base_of(recipe);
    const Plan plan = make_plan(recipe, config, nullptr);
    EXPECT_EQ(plan.parameters, total_parameters(config));
    EXPECT_GT(plan.trainable_parameters, 0);
    EXPECT_EQ(plan.micro_batch_tokens, recipe.train.per_device_train_batch_size * recipe.data.max_length)
        << "rows are longer than the model's context";
    for (const MemoryItem& item : plan.memory) EXPECT_GE(item.bytes, 0) << item.name;
  }
}

TEST_P(ShippedRecipe, SaysWhatItNeeds) {
  std::ifstream stream(GetParam());
  std::string text{std::istreambuf_iterator<char>(stream), {}};
  text = std::regex_replace(text.substr(0, text.find("\n\n")), std::regex("\\s+#?\\s*"), " ");
  double needed = 0;
  for (Recipe& recipe : recipes_) {
    if (recipe.train.device == Device::automatic) recipe.train.device = Device::cuda;
    needed = std::max(needed, static_cast<double>(make_plan(recipe, base_of(recipe), nullptr).peak_bytes()) / kGiB);
  }
  std::smatch match;
  const bool said = std::regex_search(text, match, std::regex("([0-9]+) Gi?B of (device )?memory"));
  EXPECT_NEAR(said ? std::stod(match[1]) : 0.0, needed, std::max(1.0, 0.03 * needed)) << GetParam();
}

TEST_P(ShippedRecipe, SpeaksItsModelsFormat) {
  for (const Recipe& recipe : recipes_) {
    const KnownModel* model = find_known_model(std::filesystem::path(recipe.model.base_model).filename());
    if (model == nullptr || model->chat_template == "none") continue;  // base models may be given any
    EXPECT_EQ(recipe.data.chat_template, model->chat_template);
  }
}

INSTANTIATE_TEST_SUITE_P(All, ShippedRecipe,
                         ::testing::ValuesIn(list_recipes(std::filesystem::path(TUNE_SOURCE_DIR) / "recipes")),
                         [](const auto& info) {
                           return std::regex_replace(info.param.stem().string(), std::regex("[^A-Za-z0-9]"), "_");
                         });

}  // namespace
}  // namespace tune
