#include "train/plan/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "checkpoints/huggingface/config.h"
#include "recipes/schema/error.h"
#include "train/plan/memory.h"
#include "train/plan/offload.h"
#include "train/plan/process.h"

namespace tune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelConfig config(std::int64_t hidden, std::int64_t layers, std::int64_t heads, std::int64_t kv_heads,
                   std::int64_t inner, std::int64_t vocab = 32000) {
  return {.model_type = "llama",
          .vocab_size = vocab,
          .hidden_size = hidden,
          .intermediate_size = inner,
          .num_hidden_layers = layers,
          .num_attention_heads = heads,
          .num_key_value_heads = kv_heads,
          .head_dim = hidden / heads,
          .max_position_embeddings = 4096};
}

const ModelConfig kLlama2_7b = config(4096, 32, 32, 32, 11008);

// As published: the sum of the tensors in each model's own safetensors files.
TEST(Plan, CountsTheParametersOfKnownModels) {
  EXPECT_EQ(total_parameters(kLlama2_7b), 6'738'415'616);
  EXPECT_EQ(total_parameters(config(5120, 40, 40, 40, 13824)), 13'015'864'320);
  EXPECT_EQ(total_parameters(config(8192, 80, 64, 8, 28672)), 68'976'648'192);
  EXPECT_EQ(total_parameters(config(4096, 32, 32, 8, 14336)), 7'241'732'096);           // Mistral, Zephyr
  EXPECT_EQ(total_parameters(config(4096, 48, 32, 8, 14336)), 10'731'524'096);          // SOLAR
  EXPECT_EQ(total_parameters(config(5120, 40, 40, 40, 13824, 32016)), 13'016'028'160);  // Code Llama
}

ModelConfig mixtral() {
  ModelConfig c = config(4096, 32, 32, 8, 14336);
  c.num_local_experts = 8;
  c.num_experts_per_tok = 2;
  c.router_aux_loss_coef = 0.02;
  return c;
}

TEST(Plan, CountsExperts) {
  EXPECT_EQ(total_parameters(mixtral()), 46'702'792'704);
  // routers stay as they are unless asked for
  EXPECT_EQ(trainable_parameters(mixtral(), {.type = AdapterType::none}), 46'702'792'704 - 32 * 8 * 4096);
  EXPECT_EQ(trainable_parameters(mixtral(), {.type = AdapterType::none}, true), 46'702'792'704);
  EXPECT_THAT(adapted_modules({}, mixtral()), ElementsAre("q_proj", "k_proj", "v_proj", "o_proj", "w1", "w3", "w2"));
  EXPECT_EQ(trainable_parameters(mixtral(), {.lora_r = 16, .lora_target_modules = {"w1", "w2", "w3"}}),
            32 * 8 * 3 * 16 * (4096 + 14336));
  // 12.9 billion of them act on a token, the embedding not counted
  EXPECT_NEAR(flops_per_token(mixtral(), {.type = AdapterType::none}), 6 * 12.75e9, 6 * 0.05e9);
}

TEST(Plan, AuxiliaryLossCountsWhereRoutersAreTrained) {
  Recipe recipe;
  EXPECT_EQ(router_aux_loss_coef(recipe, mixtral()), 0);
  recipe.adapter.lora_target_modules = {"q_proj", "gate"};
  EXPECT_EQ(router_aux_loss_coef(recipe, mixtral()), 0.02);
  recipe.train.router_aux_loss_coef = 0.5;
  EXPECT_EQ(router_aux_loss_coef(recipe, mixtral()), 0.5);
  EXPECT_EQ(router_aux_loss_coef(recipe, kLlama2_7b), 0);
}

TEST(Plan, TiedHeadIsCountedOnce) {
  ModelConfig smol = config(576, 30, 9, 3, 1536, 49152);  // SmolLM2-135M
  smol.tie_word_embeddings = true;
  EXPECT_EQ(total_parameters(smol), 134'515'008);
}

TEST(Plan, CountsAdapterParameters) {
  const auto trained = [](std::vector<std::string> modules, std::int64_t r) {
    return trainable_parameters(kLlama2_7b, {.lora_r = r, .lora_target_modules = std::move(modules)});
  };
  // A [r, in] and B [out, r] for each module of each layer
  EXPECT_EQ(trained({"q_proj", "v_proj"}, 8), 32 * 2 * 8 * (4096 + 4096));  // 4,194,304, as PEFT prints it
  EXPECT_EQ(trained({"all-linear"}, 16), 32 * 16 * (4 * (4096 + 4096) + 3 * (4096 + 11008)));
  EXPECT_EQ(trained({"down_proj"}, 4), 32 * 4 * (11008 + 4096));
  EXPECT_EQ(trainable_parameters(kLlama2_7b, {.type = AdapterType::none}), total_parameters(kLlama2_7b));
}

TEST(Plan, CountsWhatIsTrainedBesideFactors) {
  const std::vector<std::string> q = {"q_proj"};
  const std::int64_t plain = 32 * 8 * (4096 + 4096);
  EXPECT_EQ(trainable_parameters(kLlama2_7b, {.lora_r = 8, .use_dora = true, .lora_target_modules = q}),
            plain + 32 * 4096);
  EXPECT_EQ(
      trainable_parameters(kLlama2_7b,
                           {.lora_r = 8, .rank_pattern = {{"layers.3.self_attn.q_proj", 2}}, .lora_target_modules = q}),
      plain - 6 * (4096 + 4096));
  EXPECT_EQ(
      trainable_parameters(
          kLlama2_7b,
          {.lora_r = 8, .lora_target_modules = q, .modules_to_save = {"lm_head"}, .trainable_tokens = {"<s>", "</s>"}}),
      plain + (32000 + 2) * 4096);
}

TEST(Plan, RefusesVariantsThatTheModelHasNoPlaceFor) {
  const auto complaint = [](const AdapterOptions& adapter, const ModelConfig& config) {
    try {
      adapted_modules(adapter, config);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_THAT(complaint({.rank_pattern = {{"q_porj", 2}}}, kLlama2_7b),
              HasSubstr("rank_pattern has q_porj, which is no"));
  EXPECT_THAT(complaint({.alpha_pattern = {{"layers.32.mlp.up_proj", 2}}}, kLlama2_7b), HasSubstr("is no module"));
  EXPECT_EQ(complaint({.alpha_pattern = {{"layers.31.mlp.up_proj", 2}}}, kLlama2_7b), "");
  EXPECT_THAT(complaint({.rank_pattern = {{"w1", 2}}}, mixtral()), HasSubstr("all experts have the same rank"));
  EXPECT_THAT(complaint({.use_dora = true}, mixtral()), HasSubstr("no DoRA for experts"));
  EXPECT_EQ(complaint({.use_dora = true, .lora_target_modules = {"q_proj", "o_proj"}}, mixtral()), "");
  ModelConfig tied = kLlama2_7b;
  tied.tie_word_embeddings = true;
  EXPECT_THAT(complaint({.modules_to_save = {"lm_head"}}, tied), HasSubstr("are one tensor in this model"));
}

TEST(Plan, AdaptedModulesAreInModelOrder) {
  EXPECT_THAT(adapted_modules({.lora_target_modules = {"down_proj", "q_proj"}}, kLlama2_7b),
              ElementsAre("q_proj", "down_proj"));
  EXPECT_EQ(adapted_modules({}, kLlama2_7b).size(), 7u);
}

TEST(Plan, UnknownModuleIsRefusedWithTheKnownOnes) {
  try {
    adapted_modules({.lora_target_modules = {"qkv_proj"}}, kLlama2_7b);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), 2);
    EXPECT_THAT(error.what(),
                ::testing::HasSubstr("this model has no linear layer called qkv_proj; they are q_proj, k_proj"));
  }
}

Recipe small_recipe() {
  Recipe recipe;
  recipe.data.max_length = 1024;
  recipe.train.per_device_train_batch_size = 2;
  recipe.train.max_steps = 10;
  return recipe;
}

TEST(Plan, WithoutDataEveryMicroBatchIsFull) {
  const Plan plan = make_plan(small_recipe(), kLlama2_7b, nullptr);
  EXPECT_EQ(plan.steps, 10);
  EXPECT_EQ(plan.micro_batch_tokens, 2 * 1024);
  EXPECT_GT(plan.peak_bytes(), 2 * plan.parameters);  // bf16 weights at least
  EXPECT_EQ(plan.memory[0].name, "program");
}

TEST(Plan, CheckpointingSavesActivationsAndFullTuningCostsMasters) {
  Recipe recipe = small_recipe();
  const std::int64_t lora = make_plan(recipe, kLlama2_7b, nullptr).peak_bytes();
  recipe.train.gradient_checkpointing = true;
  EXPECT_LT(make_plan(recipe, kLlama2_7b, nullptr).peak_bytes(), lora);
  recipe.adapter.type = AdapterType::none;
  // weight 2, master 4, gradient 4, two moments 8
  EXPECT_GT(make_plan(recipe, kLlama2_7b, nullptr).peak_bytes(), 18 * total_parameters(kLlama2_7b));
}

std::int64_t bytes_of(const Plan& plan, const std::string& name) {
  for (const MemoryItem& item : plan.memory)
    if (item.name == name) return item.bytes;
  return 0;
}

TEST(Plan, UpdatesInTheBackwardPassHoldOneLayersGradients) {
  Recipe recipe = small_recipe();
  recipe.adapter.type = AdapterType::none;
  recipe.train.optimizer_in_backward = recipe.train.bf16_stochastic_round = true;
  recipe.train.optim = OptimizerType::adafactor;
  const Plan plan = make_plan(recipe, kLlama2_7b, nullptr);
  EXPECT_EQ(bytes_of(plan, "gradients"), 4 * (4 * 4096 * 4096 + 3 * 4096 * 11008 + 2 * 4096));
  EXPECT_EQ(bytes_of(plan, "fp32 masters"), 0);
  const std::int64_t layer = 4 * (4096 + 4096) + 3 * (4096 + 11008) + 2 * 4096;
  EXPECT_EQ(bytes_of(plan, "optimizer"), 4 * (32 * layer + 2 * (32000 + 4096) + 4096));
  recipe.train.optimizer_in_backward = false;
  EXPECT_EQ(bytes_of(make_plan(recipe, kLlama2_7b, nullptr), "gradients"), 4 * total_parameters(kLlama2_7b));
  recipe.adapter = {.lora_r = 8};  // A and B of seven modules
  EXPECT_EQ(bytes_of(make_plan(recipe, kLlama2_7b, nullptr), "optimizer"), 4 * 32 * (layer - 2 * 4096 + 7 * 2 * 8));
}

TEST(Plan, WhatIsOffloadedIsTheHosts) {
  Recipe recipe = small_recipe();
  recipe.adapter.type = AdapterType::none;
  recipe.train.offload_optimizer = true;
  // Every other tensor goes through one of the buffers: both tables, which are the 1st and the 291st, through one.
  const std::int64_t state = 8 * total_parameters(kLlama2_7b), buffers = 8 * (32000 * 4096 + 4096 * 11008);
  const Plan host = make_plan(recipe, kLlama2_7b, nullptr);
  EXPECT_EQ(bytes_of(host, "optimizer"), state);
  EXPECT_EQ(bytes_of(host, "optimizer on its way"), buffers);
  EXPECT_TRUE(host.host_memory.empty());
  recipe.train.device = Device::cuda;
  const Plan gpu = make_plan(recipe, kLlama2_7b, nullptr);
  EXPECT_EQ(bytes_of(gpu, "optimizer"), 0);
  EXPECT_EQ(bytes_of(gpu, "optimizer on its way"), buffers);
  EXPECT_EQ(gpu.host_memory.at(0).bytes, state);
  recipe.train.offload_optimizer = false;
  const Plan whole = make_plan(recipe, kLlama2_7b, nullptr);
  EXPECT_EQ(whole.peak_bytes() - gpu.peak_bytes(), state - buffers);
  EXPECT_TRUE(whole.host_memory.empty());
  recipe.train.offload_optimizer = true;
  recipe.adapter = {.lora_r = 8};
  EXPECT_EQ(bytes_of(make_plan(recipe, kLlama2_7b, nullptr), "optimizer on its way"), 8 * 2 * 8 * 11008);
}

std::string refusal_of(const std::function<void()>& planning) {
  try {
    planning();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Plan, StateThatTheHostHasNoRoomForIsRefusedBeforeItIsPinned) {
  Plan plan;
  plan.host_memory = {{"optimizer", std::int64_t{50} << 30}};
  const auto refusal = [&](OptimizerType optim, std::int64_t ranks, std::int64_t gib) {
    return refusal_of([&] { require_host_memory(plan, optim, ranks, gib << 30); });
  };
  EXPECT_EQ(refusal(OptimizerType::adamw, 1, 50), "");
  EXPECT_EQ(refusal(OptimizerType::adamw, 2, 64),
            "train.offload_optimizer: the optimizer of this host's ranks takes 100.0 GiB of its memory, 64.0 GiB are "
            "free; write train.optim: adamw_8bit, whose state is a quarter, or take a host with more memory");
  EXPECT_THAT(refusal(OptimizerType::adamw_8bit, 1, 4), HasSubstr("take a host with more memory"));
  const HostMemory here = host_memory();
  EXPECT_GT(here.available, 1 << 20);
  EXPECT_LE(here.available, here.total);
}

TEST(Plan, OffloadedAdaptersCountTheLargestRank) {
  Recipe recipe = small_recipe();
  recipe.train.offload_optimizer = true;
  recipe.adapter = {.lora_r = 8, .rank_pattern = {{"layers.3.mlp.down_proj", 64}}};
  EXPECT_EQ(bytes_of(make_plan(recipe, kLlama2_7b, nullptr), "optimizer on its way"), 8 * 2 * 64 * 11008);
}

TEST(Plan, ABaseInFp8TakesAByteAWeightAndAScaleARow) {
  for (const ModelConfig& model : {kLlama2_7b, mixtral()}) {
    Recipe recipe = small_recipe();
    recipe.train.device = Device::cuda;
    const Plan bf16 = make_plan(recipe, model, nullptr);
    recipe.train.precision = Precision::fp8;
    const Plan fp8 = make_plan(recipe, model, nullptr);
    std::int64_t weights = 0, rows = 0;
    for (const LinearKind& linear : linear_kinds(model))
      if (linear.name != "gate") weights += linear.count * linear.out * linear.in, rows += linear.count * linear.out;
    EXPECT_EQ(bytes_of(bf16, "base weights") - bytes_of(fp8, "base weights"),
              model.num_hidden_layers * (weights - 4 * rows));
    const std::int64_t active = std::max<std::int64_t>(1, model.num_experts_per_tok),
                       tokens = fp8.micro_batch_tokens * active;  // that meet an MLP
    EXPECT_EQ(
        bytes_of(fp8, "working space") - bytes_of(bf16, "working space"),
        2 * model.intermediate_size * (model.hidden_size + tokens) + (active > 1 ? 2 * tokens * model.hidden_size : 0));
    EXPECT_EQ(bytes_of(fp8, "adapter and masters"), bytes_of(bf16, "adapter and masters"));
  }
}

TEST(Plan, Fp8RefusesSizesThatItsProductsDoNotTake) {
  Recipe recipe = small_recipe();
  recipe.train.precision = Precision::fp8;
  EXPECT_EQ(refusal_of([&] { make_plan(recipe, config(4096, 2, 32, 32, 11000), nullptr); }),
            "precision is fp8, whose products take multiples of 16; gate_proj is [11000, 4096]; write precision: bf16");
}

TEST(Plan, EvaluationCountsWhereItNeedsMoreThanTraining) {
  Recipe recipe = small_recipe();
  recipe.data.eval_datasets = {{.path = "eval.jsonl"}};
  const Plan large = make_plan(recipe, kLlama2_7b, nullptr);
  EXPECT_EQ(large.evaluation_limit, 2048);  // a batch of training's size
  EXPECT_EQ(bytes_of(large, "evaluation"), 0);
  recipe.train.per_device_train_batch_size = 1;
  recipe.train.gradient_checkpointing = true;
  recipe.data.max_length = 256;
  const Plan small = make_plan(recipe, kLlama2_7b, nullptr);
  EXPECT_EQ(small.evaluation_tokens, 8 * 256);
  EXPECT_GT(bytes_of(small, "evaluation"), 0);
  EXPECT_EQ(bytes_of(small, "activations"), 0);
  recipe.data.eval_datasets.clear();
  EXPECT_LT(make_plan(recipe, kLlama2_7b, nullptr).peak_bytes(), small.peak_bytes());
}

TEST(Plan, OnAGpuOnlyTheDevicesMemoryCounts) {
  Recipe recipe = small_recipe();
  recipe.train.device = Device::cuda;
  const Plan exact = make_plan(recipe, kLlama2_7b, nullptr);
  EXPECT_EQ(bytes_of(exact, "program"), 0);
  EXPECT_EQ(bytes_of(exact, "CUDA context, about"), kCudaContextBytes);
  EXPECT_EQ(bytes_of(exact, "base weights"), 2 * exact.parameters);
  recipe.train.deterministic = false;
  // two documents of 32 heads are 64 blocks for 132 multiprocessors: to be exact, d_q is summed three times
  EXPECT_EQ(exact.peak_bytes() - make_plan(recipe, kLlama2_7b, nullptr).peak_bytes(),
            2 * (2048 + 2 * 128) * 32 * 128 * 4);
}

TEST(Plan, TapeIsWhatALayerKeeps) {
  const ModelConfig c = config(64, 2, 4, 2, 96);
  // input, middle [64], qkv [64 + 2 * 32], attention [64], gate and up [2 * 96]; log-sum-exp [4] and two inverse norms
  EXPECT_EQ(tape_bytes_per_token(c, {.type = AdapterType::none}, 2), (64 + 64 + 128 + 64 + 192) * 2 + (4 + 2) * 4);
  // x A^T of the seven modules
  EXPECT_EQ(tape_bytes_per_token(c, {.lora_r = 8}, 2) - tape_bytes_per_token(c, {.type = AdapterType::none}, 2),
            7 * 8 * 2);
}

}  // namespace
}  // namespace tune
