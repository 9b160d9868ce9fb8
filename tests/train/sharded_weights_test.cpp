#include "train/parallel/sharded_weights.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/train/lone_step.h"
#include "tests/train/small_models.h"
#include "train/objectives/supervised.h"

// With one rank: that several agree is judged by tests/judges/judge_distributed.py.

namespace tune {
namespace {

class Sharded : public ::testing::Test {
 protected:
  // Trains both for three steps. Gradients are added up in another order, so the last bits may differ.
  void expect_the_same(const ModelConfig& config, const DecoderOptions& options) {
    const RandomModel model(config, 0.1);
    Decoder plain(config, model, options), sharded(config, model, options, std::make_unique<ShardedWeights>(alone_));
    EXPECT_EQ(sharded.trains_slices(), options.adapter.type == AdapterType::none);
    TrainOptions train{.learning_rate = 1e-2, .weight_decay = 0.1, .max_grad_norm = 0.5};
    const auto one = make_optimizer(plain.trained(), train), other = make_optimizer(sharded.trained(), train);
    for (std::int64_t step = 0; step < 3; ++step) {
      const std::vector<PackedBatch> batches = {document(12, 3), document(7, 5), document(4, 9, false)};
      const auto expected = lone_step(plain, *one, batches, train, step, 3);
      const auto found = lone_step(sharded, *other, batches, train, step, 3);
      EXPECT_NEAR(found->loss, expected->loss, 1e-5 * expected->loss);
      EXPECT_NEAR(found->grad_norm, expected->grad_norm, 1e-4 * expected->grad_norm);
    }
    const PackedBatch last = document(9, 1);
    const double tolerance = options.dtype == Dtype::fp32 ? 1e-4 : 2e-2;
    for (int again = 0; again < 2; ++again)
      EXPECT_TRUE(at::allclose(logits(sharded, last, {2, 8}), logits(plain, last, {2, 8}), tolerance, tolerance));
    KeyValueCache cache, other_cache;
    for (const auto& ids : {std::vector<std::int32_t>{4, 8, 1}, {7}})
      EXPECT_TRUE(at::allclose(sharded.forward_cached(ids, cache), plain.forward_cached(ids, other_cache), tolerance,
                               tolerance));
  }
  World alone_;
};

TEST_F(Sharded, AdaptersLearnTheSameOverAShardedBase) {
  for (const bool tied : {false, true})
    for (const bool reshard : {true, false})
      expect_the_same(three_layers(tied, 0),
                      {.dtype = Dtype::fp32, .adapter = {.lora_r = 3}, .reshard_after_forward = reshard});
}

TEST_F(Sharded, AdaptersThatTakeSomethingFromTheBaseDoSo) {
  for (const AdapterType type : {AdapterType::lora, AdapterType::qlora}) {
    const AdapterOptions whole{
        .type = type, .lora_r = 3, .use_dora = true, .modules_to_save = {"embed_tokens", "lm_head"}};
    expect_the_same(three_layers(false, 0), {.dtype = Dtype::fp32, .adapter = whole});
    const AdapterOptions rows{.type = type, .lora_r = 3, .init_lora_weights = LoraInit::pissa};
    expect_the_same(three_layers(false, 4), {.dtype = Dtype::fp32, .adapter = rows, .trainable_token_ids = {3, 8, 1}});
  }
}

TEST_F(Sharded, AndOverOneInNf4) {
  for (const std::int64_t experts : {0, 4})
    expect_the_same(three_layers(false, experts),
                    {.dtype = Dtype::fp32, .adapter = {.type = AdapterType::qlora, .lora_r = 3}});
}

TEST_F(Sharded, FullFineTuningIsTheSame) {
  for (const bool tied : {false, true})
    for (const bool checkpointing : {false, true})
      expect_the_same(three_layers(tied, 0), {.dtype = checkpointing ? Dtype::bf16 : Dtype::fp32,
                                              .adapter = {.type = AdapterType::none},
                                              .gradient_checkpointing = checkpointing,
                                              .reshard_after_forward = !checkpointing});
}

TEST_F(Sharded, FrozenRoutersStayAsTheyAre) {
  for (const bool router : {false, true})
    expect_the_same(three_layers(false, 4),
                    {.dtype = Dtype::fp32, .adapter = {.type = AdapterType::none}, .train_router = router});
}

TEST_F(Sharded, ParametersAreSlicesWithNames) {
  const RandomModel model(three_layers(false, 0), 0.1);
  Decoder decoder(three_layers(false, 0), model, {.dtype = Dtype::fp32, .adapter = {.type = AdapterType::none}},
                  std::make_unique<ShardedWeights>(alone_));
  std::vector<std::string> undecayed;
  for (const Parameter& parameter : decoder.trained()) {
    EXPECT_EQ(parameter.value.dim(), 1) << parameter.name;
    EXPECT_TRUE(parameter.value.is_same(parameter.master)) << parameter.name;
    if (!parameter.decays) undecayed.push_back(parameter.name);
  }
  EXPECT_THAT(undecayed, ::testing::Contains("model.layers.1.input_layernorm.weight@0"));
  EXPECT_EQ(undecayed.size(), 7u);
}

}  // namespace
}  // namespace tune
