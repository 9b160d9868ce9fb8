#include "tools/export/check_vllm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "checkpoints/files/atomic_file.h"
#include "checkpoints/peft/adapter_config.h"
#include "checkpoints/safetensors/named_bytes.h"
#include "recipes/schema/error.h"

namespace tune {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

ModelConfig model(const std::string& type) {
  return {.model_type = type, .num_hidden_layers = 1, .num_local_experts = type == "mixtral" ? 2 : 0};
}

/// A folder with one factor a module; what is in `json` replaces what a plain adapter says.
class CheckVllm : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  /// What is wrong with it; "" = nothing, and rank_ is set.
  std::string complaint(const std::string& type, const nlohmann::json& changes,
                        const std::vector<std::string>& modules = {"self_attn.q_proj"}) {
    nlohmann::json config = nlohmann::json::parse(write_adapter_config({.r = 12, .target_modules = {"q_proj"}}));
    for (const auto& [key, value] : changes.items()) config[key] = value;
    write_atomically(folder_ / kAdapterConfigFile, config.dump());
    std::vector<NamedBytes> tensors;
    for (const std::string& module : modules)
      tensors.push_back({"base_model.model.model.layers.0." + module + ".lora_A.weight", "F32", {1, 1}, bytes_});
    write_safetensors(folder_ / kAdapterWeightsFile, tensors);
    try {
      rank_ = check_vllm(model(type), folder_);
    } catch (const Error& error) {
      EXPECT_EQ(error.fault(), Fault::recipe);
      return error.what();
    }
    return "";
  }

  fs::path folder_ = fs::path(testing::TempDir()) / "check_vllm";
  std::vector<std::byte> bytes_ = std::vector<std::byte>(4);
  std::int64_t rank_ = 0;
};

TEST_F(CheckVllm, NamesTheRankToServeWith) {
  EXPECT_EQ(complaint("llama", {}), "");
  EXPECT_EQ(rank_, 16);
  EXPECT_EQ(complaint("llama", {{"r", 1}, {"use_rslora", true}}), "");
  EXPECT_EQ(rank_, 1);
  EXPECT_EQ(complaint("llama", {{"r", 257}}), "");
  EXPECT_EQ(rank_, 320);
  EXPECT_THAT(complaint("llama", {{"rank_pattern", {{"q_proj", 33}}}}), HasSubstr("scales all by lora_alpha / r"));
}

TEST_F(CheckVllm, NamesAllThatIsRefusedAtOnce) {
  const std::string said =
      complaint("llama", {{"r", 513}, {"use_dora", true}, {"modules_to_save", {"lm_head"}}, {"bias", "all"}});
  EXPECT_THAT(said,
              AllOf(HasSubstr("use_dora is true; "), HasSubstr("modules_to_save is [\"lm_head\"]; "),
                    HasSubstr("bias is \"all\", not \"none\"; "),
                    HasSubstr("its rank is 513, and --max-lora-rank ends at 512"), HasSubstr("merge_and_unload")));
}

TEST_F(CheckVllm, RefusesWhatChangesTheBase) {
  EXPECT_THAT(complaint("llama", {{"init_lora_weights", "pissa"}}), HasSubstr("init_lora_weights is \"pissa\""));
  EXPECT_EQ(complaint("llama", {{"init_lora_weights", "gaussian"}}), "");
  EXPECT_EQ(complaint("llama", {{"init_lora_weights", false}}), "");
}

TEST_F(CheckVllm, KnowsTheLayersOfEachModel) {
  EXPECT_EQ(complaint("llama", {}, {"mlp.up_proj", "lm_head"}), "");
  EXPECT_THAT(complaint("mistral", {}, {"mlp.up_proj", "lm_head"}),
              HasSubstr("no adapters of lm_head in mistral models"));
  EXPECT_THAT(complaint("llama", {}, {"mlp.c_fc"}), HasSubstr("leave c_fc out of lora_target_modules"));
  EXPECT_EQ(complaint("mixtral", {}, {"self_attn.q_proj", "block_sparse_moe.gate"}), "");
}

TEST_F(CheckVllm, WantsAllExpertsOrNone) {
  std::vector<std::string> experts;
  for (const char* matrix : {"0.w1", "0.w2", "0.w3", "1.w1", "1.w2", "1.w3"})
    experts.push_back(std::string("block_sparse_moe.experts.") + matrix);
  EXPECT_EQ(complaint("mixtral", {}, experts), "");
  experts.pop_back();
  EXPECT_THAT(complaint("mixtral", {}, experts), HasSubstr("only some of the experts' w1, w2 and w3"));
  EXPECT_THAT(complaint("mixtral", {}, {"mlp.experts"}), HasSubstr("are fused"));
  EXPECT_THAT(complaint("mixtral", {}, {"block_sparse_moe.experts.2.w1"}), HasSubstr("no adapters of experts.2.w1"));
}

/// The same before a run; "" = nothing.
std::string planned(const std::string& type, const AdapterOptions& adapter) {
  ModelConfig config = model(type);
  config.hidden_size = config.intermediate_size = config.vocab_size = 8;
  config.num_attention_heads = config.num_key_value_heads = config.head_dim = 2;
  try {
    check_vllm(config, adapter);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(CheckVllmBeforeARun, LooksAtRankAndLayers) {
  EXPECT_EQ(planned("mixtral", {.lora_r = 512}), "");
  EXPECT_THAT(planned("llama", {.lora_r = 1024}), HasSubstr("its rank is 1024"));
  EXPECT_EQ(planned("mixtral", {.lora_target_modules = {"q_proj", "gate"}}), "");
  EXPECT_THAT(planned("mixtral", {.lora_target_modules = {"w1", "w3"}}),
              AllOf(HasSubstr("only some of the experts'"), Not(HasSubstr("rank"))));
}

}  // namespace
}  // namespace tune
