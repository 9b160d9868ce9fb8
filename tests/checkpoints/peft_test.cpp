#include "checkpoints/peft/adapter_config.h"
#include "checkpoints/peft/adapter_folder.h"
#include "tests/checkpoints/files_helpers.h"

namespace tune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string refusal(const std::string& config) {
  const TemporaryFolder folder;
  put(folder / kAdapterConfigFile, config);
  return error_text(Fault::data, [&] { read_adapter_config(folder.path()); });
}

TEST(AdapterConfig, RoundTrips) {
  const TemporaryFolder folder;
  const AdapterConfig config{.base_model_name_or_path = "models/base",
                             .r = 8,
                             .lora_alpha = 12.5,
                             .lora_dropout = 0.1,
                             .target_modules = {"q_proj", "v_proj"},
                             .use_rslora = true};
  put(folder / kAdapterConfigFile, write_adapter_config(config));
  const AdapterConfig read = read_adapter_config(folder.path());
  EXPECT_EQ(read.base_model_name_or_path, "models/base");
  EXPECT_EQ(read.r, 8);
  EXPECT_EQ(read.lora_alpha, 12.5);
  EXPECT_EQ(read.lora_dropout, 0.1);
  EXPECT_THAT(read.target_modules, ElementsAre("q_proj", "v_proj"));
  EXPECT_TRUE(read.use_rslora);
  EXPECT_DOUBLE_EQ(read.scale_of("model.layers.0.self_attn.q_proj"), 12.5 / 2.8284271247461903);
}

TEST(AdapterConfig, KeepsDoraAndPatternsWithTheLongestFirst) {
  const TemporaryFolder folder;
  const AdapterConfig config{.r = 8,
                             .lora_alpha = 16,
                             .target_modules = {"q_proj", "up_proj"},
                             .use_dora = true,
                             .rank_pattern = {{"layers.1.mlp.up_proj", 2}, {"up_proj", 4}},
                             .alpha_pattern = {{"up_proj", 2.5}}};
  const std::string text = write_adapter_config(config);
  EXPECT_LT(text.find("\"layers.1.mlp.up_proj\": 2"), text.find("\"up_proj\": 4"));
  put(folder / kAdapterConfigFile, text);
  const AdapterConfig read = read_adapter_config(folder.path());
  EXPECT_TRUE(read.use_dora);
  EXPECT_EQ(read.rank_of("model.layers.1.mlp.up_proj"), 2);
  EXPECT_EQ(read.rank_of("model.layers.11.mlp.up_proj"), 4);
  EXPECT_EQ(read.rank_of("model.layers.1.self_attn.q_proj"), 8);
  EXPECT_EQ(read.scale_of("model.layers.1.mlp.up_proj"), 1.25);
  EXPECT_EQ(read.scale_of("model.layers.1.self_attn.q_proj"), 2);
}

TEST(AdapterConfig, PatternsAreNames) {
  const auto with = [](const std::string& keys) {
    return R"({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], )" + keys + "}";
  };
  EXPECT_THAT(refusal(with(R"("rank_pattern": {"layers\\.[01]\\..*": 2})")),
              HasSubstr("names of modules are supported"));
  EXPECT_THAT(refusal(with(R"("rank_pattern": {"q_proj": 2.5})")), HasSubstr("rank_pattern has 2.5 for q_proj"));
  const TemporaryFolder folder;
  put(folder / kAdapterConfigFile, with(R"("rank_pattern": {"^model.layers.0.self_attn.q_proj": 2})"));
  EXPECT_EQ(read_adapter_config(folder.path()).rank_of("model.layers.0.self_attn.q_proj"), 2);
}

TEST(AdapterConfig, KeepsAWholeAlphaWhole) {
  EXPECT_THAT(write_adapter_config({.lora_alpha = 32}), HasSubstr("\"lora_alpha\": 32,"));
}

TEST(AdapterConfig, RefusesOtherMethodsAllAtOnce) {
  const std::string text = refusal(R"({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"],
    "use_qalora": true, "modules_to_save": ["norm"], "bias": "all", "rank_pattern": 2})");
  EXPECT_THAT(text, HasSubstr("adapter_config.json: this adapter can't be used: bias is \"all\"; it must be \"none\""));
  EXPECT_THAT(text, HasSubstr("use_qalora is true (QA-LoRA pools its inputs)"));
  EXPECT_THAT(text, HasSubstr("modules_to_save is [\"norm\"]; embed_tokens and lm_head are supported"));
  EXPECT_THAT(text, HasSubstr("rank_pattern is 2; it must be an object"));
  EXPECT_THAT(text, HasSubstr("merge_and_unload()"));
}

TEST(AdapterConfig, RefusesWhatChangesTheMathematicsAndPassesOverTheRest) {
  const auto with = [](const std::string& keys) {
    return R"({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], )" + keys + "}";
  };
  for (const char* keys :
       {R"("init_lora_weights": "pissa_niter_16")", R"("init_lora_weights": "olora")",
        R"("init_lora_weights": "loftq")", R"("init_lora_weights": "corda")", R"("init_lora_weights": "mica")",
        R"("alora_invocation_tokens": [1, 2])", R"("use_qalora": true)", R"("use_bdlora": {"x": 1})",
        R"("kasa_config": {"x": 1})", R"("monteclora_config": {"x": 1})", R"("arrow_config": {"x": 1})"})
    EXPECT_THAT(refusal(with(keys)), HasSubstr("this adapter can't be used")) << keys;
  const TemporaryFolder folder;
  put(folder / kAdapterConfigFile,
      with(R"("init_lora_weights": "gaussian", "qalora_group_size": 16, "loftq_config": {}, "eva_config": {"rho": 2.0},
              "megatron_core": "megatron.core", "ensure_weight_tying": false, "alora_invocation_tokens": null)"));
  EXPECT_EQ(read_adapter_config(folder.path()).r, 4);
}

TEST(AdapterConfig, RefusesWrongValues) {
  EXPECT_THAT(refusal(R"({"peft_type": "IA3", "target_modules": ["q_proj"]})"), HasSubstr("peft_type is \"IA3\""));
  EXPECT_THAT(refusal(R"({"peft_type": "LORA", "r": 0, "target_modules": ["q_proj"]})"),
              HasSubstr("r is 0; it must be"));
  EXPECT_THAT(refusal(R"({"peft_type": "LORA", "target_modules": ".*proj"})"),
              HasSubstr("target_modules is \".*proj\""));
  const TemporaryFolder folder;
  EXPECT_THAT(error_text(Fault::data, [&] { read_adapter_config(folder.path()); }),
              HasSubstr("has no adapter_config.json; give the folder of a PEFT adapter"));
}

TEST(AdapterFolder, WritesWhatItReads) {
  const TemporaryFolder folder;
  const std::string name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
  const std::vector<std::uint16_t> bf16 = {0x3f80, 0xc000};
  write_adapter(folder.path(), {.r = 1, .target_modules = {"q_proj"}},
                std::vector<NamedBytes>{{name, "BF16", {1, 2}, bytes_of(bf16)}});
  const AdapterFolder adapter(folder.path());
  std::vector<float> values(2);
  adapter.read(name, Dtype::fp32, std::as_writable_bytes(std::span(values)));
  EXPECT_THAT(values, ElementsAre(1.0f, -2.0f));
  EXPECT_THAT(adapter.find(name)->shape, ElementsAre(1, 2));
}

TEST(AdapterFolder, RefusesAPickle) {
  const TemporaryFolder folder;
  put(folder / kAdapterConfigFile, write_adapter_config({.target_modules = {"q_proj"}}));
  put(folder / "adapter_model.bin", "PK\x03\x04");
  EXPECT_THAT(error_text(Fault::data, [&] { AdapterFolder{folder.path()}; }),
              HasSubstr("adapter_model.bin: is a Python pickle"));
}

}  // namespace
}  // namespace tune
