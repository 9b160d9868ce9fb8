#include "train/model/unit_gradients.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "recipes/schema/error.h"
#include "tests/train/lone_step.h"
#include "tests/train/small_models.h"

namespace tune {
namespace {

class UpdatesInBackward : public ::testing::Test {
 protected:
  static std::unique_ptr<Decoder> make(const ModelConfig& config, const DecoderOptions& options, bool in_backward) {
    at::manual_seed(31);
    return std::make_unique<Decoder>(config, RandomModel(config, 0.1), options,
                                     in_backward ? std::make_unique<UnitGradients>(options) : nullptr);
  }
  static TrainOptions settings(OptimizerType optimizer) {
    return {.learning_rate = 1e-2, .optim = optimizer, .weight_decay = 0.1, .max_grad_norm = 0};
  }

  // Three steps of both come to the same weights and optimizer state, to the bit.
  static void expect_the_same(const ModelConfig& config, const DecoderOptions& options, TrainOptions train,
                              bool offload = false) {
    const auto plain = make(config, options, false), other = make(config, options, true);
    EXPECT_FALSE(other->has_keeper());
    EXPECT_FALSE(other->trains_slices());
    train.bf16_stochastic_round = options.bf16_stochastic_round;
    TrainOptions in_backward = train;
    in_backward.optimizer_in_backward = true;
    in_backward.offload_optimizer = offload;
    const auto one = make_optimizer(plain->trained(), train), two = make_optimizer(other->trained(), in_backward);
    for (std::int64_t step = 0; step < 3; ++step) {
      const auto expected = lone_step(*plain, *one, {document(12, static_cast<int>(step))}, train, step, 3);
      const auto found = lone_step(*other, *two, {document(12, static_cast<int>(step))}, in_backward, step, 3);
      EXPECT_EQ(found->loss, expected->loss);
      EXPECT_NEAR(found->grad_norm, expected->grad_norm, 1e-12 * expected->grad_norm);
      for (const Parameter& parameter : other->trained()) EXPECT_EQ(parameter.gradient.numel(), 0) << parameter.name;
    }
    std::map<std::string, at::Tensor> weights;
    for (const Parameter& parameter : plain->trained()) weights[parameter.name] = parameter.master;
    EXPECT_EQ(other->trained().size(), weights.size());
    for (const Parameter& parameter : other->trained())
      EXPECT_TRUE(at::equal(parameter.master, weights.at(parameter.name))) << parameter.name;
    std::map<std::string, std::vector<std::byte>> state, same;
    for (const NamedBytes& bytes : one->state()) state[bytes.name] = {bytes.bytes.begin(), bytes.bytes.end()};
    for (const NamedBytes& bytes : two->state()) same[bytes.name] = {bytes.bytes.begin(), bytes.bytes.end()};
    EXPECT_TRUE(state == same);
  }
};

TEST_F(UpdatesInBackward, AreTheUpdatesAfterIt) {
  for (const OptimizerType optimizer :
       {OptimizerType::adamw, OptimizerType::adamw_8bit, OptimizerType::adafactor, OptimizerType::sgd})
    for (const bool tied : {false, true})
      for (const bool checkpointing : {false, true})
        expect_the_same(three_layers(tied, 0),
                        {.dtype = checkpointing ? Dtype::bf16 : Dtype::fp32,
                         .adapter = {.type = AdapterType::none},
                         .gradient_checkpointing = checkpointing,
                         .bf16_stochastic_round = checkpointing && tied},
                        settings(optimizer));
}

TEST_F(UpdatesInBackward, FetchWhatIsOffloaded) {
  for (const OptimizerType optimizer : {OptimizerType::adamw, OptimizerType::adamw_8bit})
    for (const bool tied : {false, true})
      expect_the_same(three_layers(tied, 0),
                      {.dtype = Dtype::bf16, .adapter = {.type = AdapterType::none}, .bf16_stochastic_round = tied},
                      settings(optimizer), /*offload=*/true);
}

TEST_F(UpdatesInBackward, LeaveFrozenRoutersAlone) {
  for (const bool router : {false, true})
    expect_the_same(three_layers(false, 4),
                    {.dtype = Dtype::fp32, .adapter = {.type = AdapterType::none}, .train_router = router},
                    settings(OptimizerType::adamw));
}

std::map<std::string, at::Tensor> copies(Decoder& decoder) {
  std::map<std::string, at::Tensor> all;
  for (const Parameter& parameter : decoder.trained()) all[parameter.name] = parameter.master.clone();
  return all;
}

std::string error_of(Decoder& decoder, const TrainOptions& train) {
  const auto optimizer = make_optimizer(decoder.trained(), train);
  try {
    lone_step(decoder, *optimizer, {document(12, 3)}, train, 4, 10);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST_F(UpdatesInBackward, ALossThatIsNotFiniteChangesNothing) {
  TrainOptions train = settings(OptimizerType::adamw);
  train.optimizer_in_backward = true;
  const auto decoder =
      make(three_layers(false, 0), {.dtype = Dtype::fp32, .adapter = {.type = AdapterType::none}}, true);
  for (Parameter& parameter : decoder->trained())
    if (parameter.name == "model.layers.1.mlp.up_proj.weight") parameter.value.fill_(3e38);
  const auto before = copies(*decoder);
  EXPECT_THAT(error_of(*decoder, train),
              ::testing::AllOf(::testing::HasSubstr("step 5: loss "), ::testing::HasSubstr("nothing was updated"),
                               ::testing::HasSubstr("the output of model.layers.1.mlp.up_proj")));
  for (const Parameter& parameter : decoder->trained())
    EXPECT_TRUE(at::equal(parameter.master, before.at(parameter.name))) << parameter.name;
}

// Layer 1 makes its loss from products of 1e20 and 1e-22: the former are in its gradients, whose squares overflow.
TEST_F(UpdatesInBackward, AGradientThatIsNotFiniteIsNotApplied) {
  TrainOptions train = settings(OptimizerType::adamw);
  train.optimizer_in_backward = true;
  const auto decoder =
      make(three_layers(false, 0), {.dtype = Dtype::fp32, .adapter = {.type = AdapterType::none}}, true);
  for (Parameter& parameter : decoder->trained())
    for (const auto& [name, factor] : {std::pair("up", 1e22), {"down", 1e-22}})
      if (parameter.name == fmt::format("model.layers.1.mlp.{}_proj.weight", name)) parameter.value.mul_(factor);
  const auto before = copies(*decoder);
  const std::string said = error_of(*decoder, train);
  EXPECT_THAT(said, ::testing::AllOf(::testing::HasSubstr("step 5: the gradient norm from model.layers.1."),
                                     ::testing::HasSubstr("is not finite; layers behind it were updated already"),
                                     ::testing::HasSubstr("earlier checkpoints are intact")));
  for (const Parameter& parameter : decoder->trained()) {
    EXPECT_TRUE(at::isfinite(parameter.master).all().item<bool>()) << parameter.name;
    const bool changed = !at::equal(parameter.master, before.at(parameter.name));
    EXPECT_EQ(changed, parameter.name == "lm_head.weight" || parameter.name == "model.norm.weight" ||
                           parameter.name.starts_with("model.layers.2"))
        << parameter.name;
  }
}

}  // namespace
}  // namespace tune
