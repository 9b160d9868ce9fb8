// fp16: the scaler's rule, steps that are skipped, curves.
#include "train/optim/loss_scaler.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>

#include "recipes/schema/error.h"
#include "tests/train/lone_step.h"
#include "tests/train/small_models.h"

namespace tune {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// ---- the scaler's rule: torch.amp.GradScaler's ----

TEST(LossScaler, DoublesAfterTwoThousandGoodStepsInARow) {
  LossScaler scaler;
  EXPECT_EQ(scaler.scale(), 65536);
  for (int i = 0; i < 1999; ++i) scaler.good_step();
  EXPECT_EQ(scaler.scale(), 65536);
  scaler.good_step();
  EXPECT_EQ(scaler.scale(), 131072);
  for (int i = 0; i < 1999; ++i) scaler.good_step();
  EXPECT_TRUE(scaler.skip_step());  // begins the count anew
  EXPECT_EQ(scaler.scale(), 65536);
  for (int i = 0; i < 1999; ++i) scaler.good_step();
  EXPECT_EQ(scaler.scale(), 65536);
  scaler.good_step();
  EXPECT_EQ(scaler.scale(), 131072);
  EXPECT_EQ(scaler.skipped_steps(), 1);
}

TEST(LossScaler, HalvesDownToOneAndNoFurther) {
  LossScaler scaler;
  for (double scale = 32768; scale >= 1; scale /= 2) {
    ASSERT_TRUE(scaler.skip_step());
    ASSERT_EQ(scaler.scale(), scale);
  }
  EXPECT_FALSE(scaler.skip_step());
  EXPECT_EQ(scaler.scale(), 1);
  EXPECT_EQ(scaler.skipped_steps(), 16);
}

TEST(LossScaler, GoesOnFromACheckpointsFacts) {
  LossScaler scaler;
  for (int i = 0; i < 30; ++i) ASSERT_EQ(scaler.skip_step(), i < 16);
  for (int i = 0; i < 1234; ++i) scaler.good_step();
  std::map<std::string, std::string> facts, again;
  scaler.add_to(facts);
  LossScaler restored;
  restored.restore(facts);
  restored.add_to(again);
  EXPECT_EQ(again, facts);
  for (int i = 0; i < 2000 - 1234; ++i) restored.good_step();
  EXPECT_EQ(restored.scale(), 2);
  EXPECT_EQ(restored.skipped_steps(), 16);
}

LossScaler scaler_at(double scale) {
  LossScaler scaler;
  scaler.restore({{"loss_scale", fmt::format("{}", scale)}, {"loss_scale_good_steps", "7"}, {"skipped_steps", "0"}});
  return scaler;
}

// ---- steps ----

constexpr TrainOptions kTrain{.learning_rate = 5e-3, .lr_scheduler_type = Scheduler::constant};

std::vector<std::string> bits_of(Decoder& decoder, Optimizer& optimizer) {
  std::vector<std::string> bits;
  const auto add = [&](const void* data, std::size_t bytes) {
    bits.emplace_back(static_cast<const char*>(data), bytes);
  };
  for (const Parameter& parameter : decoder.trained())
    for (const at::Tensor& t : {parameter.value.contiguous(), parameter.master.contiguous()})
      add(t.const_data_ptr(), t.nbytes());
  for (const NamedBytes& moment : optimizer.state()) add(moment.bytes.data(), moment.bytes.size());
  return bits;
}

// In fp32 a factor of 2^16 changes no bit of a gradient: whatever is not scaled or not divided by it shows.
TEST(Step, WithAScalerGivesTheSameBitsInFp32) {
  PackedBatch pair;
  for (int i = 0; i < 12; ++i) pair.ids.push_back(i * 7 % kVocab), pair.labels.push_back(kNoLabel);
  pair.positions = {0, 1, 2, 3, 4, 5, 6, 3, 4, 5, 6, 7};
  pair.document_starts = {0, 12};
  pair.pairs = {{.chosen = 3,
                 .rejected = 7,
                 .end = 12,
                 .chosen_targets = {{2, 21}, {3, 28}, {4, 35}},
                 .rejected_targets = {{2, 49}, {7, 56}, {8, 2}}}};
  const auto bits = [&](AdapterType type, std::int64_t experts, const PackedBatch& batch, const Objective& objective,
                        LossScaler* scaler) {
    const std::unique_ptr<Decoder> decoder = decoder_of(Dtype::fp32, type, experts, experts > 0 ? 2 : 0);
    const std::unique_ptr<Optimizer> optimizer = make_optimizer(decoder->trained(), kTrain);
    std::vector<std::string> all;
    for (int step = 0; step < 3; ++step) {
      const auto outcome = lone_step(*decoder, *optimizer, {batch, batch}, kTrain, step, 3, scaler, objective);
      all.push_back(fmt::format("{} {}", outcome->loss, outcome->grad_norm));
      EXPECT_FALSE(outcome->skipped);
    }
    const std::vector<std::string> state = bits_of(*decoder, *optimizer);
    all.insert(all.end(), state.begin(), state.end());
    return all;
  };
  const auto expect_same = [&](const char* what, AdapterType type, std::int64_t experts, const PackedBatch& batch,
                               const Objective& objective = {}) {
    LossScaler scaler;
    EXPECT_TRUE(bits(type, experts, batch, objective, &scaler) == bits(type, experts, batch, objective, nullptr))
        << what;
  };
  expect_same("LoRA", AdapterType::lora, 0, document(20));
  expect_same("full", AdapterType::none, 0, document(20));
  expect_same("experts with an auxiliary loss", AdapterType::none, 4, document(20));
  for (const PreferenceLoss loss :
       {PreferenceLoss::sigmoid, PreferenceLoss::ipo, PreferenceLoss::orpo, PreferenceLoss::simpo}) {
    Objective objective(Stage::dpo, {.loss_type = loss});
    objective.set_reference({{-9, -8}});
    expect_same("pairs", AdapterType::lora, 0, pair, objective);
  }
}

TEST(Step, WhoseScaledGradientsOverflowIsSkipped) {
  for (const AdapterType type : {AdapterType::lora, AdapterType::qlora, AdapterType::none}) {
    const std::unique_ptr<Decoder> decoder = decoder_of(Dtype::fp16, type);
    const std::unique_ptr<Optimizer> optimizer = make_optimizer(decoder->trained(), kTrain);
    lone_step(*decoder, *optimizer, {document(20)}, kTrain, 0, 9);  // moments that are not zero
    const std::vector<std::string> before = bits_of(*decoder, *optimizer);
    LossScaler scaler = scaler_at(0x1p30);
    const auto skipped = lone_step(*decoder, *optimizer, {document(20)}, kTrain, 1, 9, &scaler);
    EXPECT_TRUE(skipped->skipped && std::isfinite(skipped->loss) && !std::isfinite(skipped->grad_norm));
    EXPECT_EQ(skipped->loss_scale, 0x1p30);
    EXPECT_EQ(scaler.scale(), 0x1p29);
    EXPECT_EQ(scaler.skipped_steps(), 1);
    EXPECT_TRUE(bits_of(*decoder, *optimizer) == before) << "something was updated";
    for (const Parameter& parameter : decoder->trained()) EXPECT_FALSE(parameter.gradient.any().item<bool>());
    scaler = scaler_at(1024);
    const auto good = lone_step(*decoder, *optimizer, {document(20)}, kTrain, 2, 9, &scaler);
    EXPECT_FALSE(good->skipped);
    EXPECT_EQ(good->loss, skipped->loss);
    EXPECT_FALSE(bits_of(*decoder, *optimizer) == before);
  }
}

std::string error_of(Decoder& decoder, LossScaler scaler) {
  const std::unique_ptr<Optimizer> optimizer = make_optimizer(decoder.trained(), kTrain);
  const std::vector<std::string> before = bits_of(decoder, *optimizer);
  try {
    lone_step(decoder, *optimizer, {document(20)}, kTrain, 7, 9, &scaler);
  } catch (const Error& error) {
    EXPECT_TRUE(bits_of(decoder, *optimizer) == before);
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Step, GradientsThatOverflowUnscaledEndTheRun) {
  const std::unique_ptr<Decoder> decoder = decoder_of(Dtype::fp16, AdapterType::lora);
  const Parameter& parameter = decoder->trained().at(3);
  parameter.gradient.fill_(std::numeric_limits<float>::infinity());
  EXPECT_THAT(error_of(*decoder, scaler_at(1)),
              AllOf(HasSubstr("step 8: loss "), HasSubstr("(scaled by 1), gradient norm "),
                    HasSubstr("the gradient of " + parameter.name), HasSubstr("set train.precision: bf16 or fp32")));
}

TEST(Step, AnOverflowOnTheWayToTheLossNamesTheModule) {
  const std::unique_ptr<Decoder> decoder = decoder_of(Dtype::fp16, AdapterType::lora);
  for (Parameter& parameter : decoder->trained())
    if (parameter.name.find("layers.1.mlp.up_proj.lora_B") != std::string::npos) parameter.value.fill_(60000);
  EXPECT_THAT(error_of(*decoder, {}), AllOf(HasSubstr("the output of model.layers.1.mlp.up_proj (largest value inf)"),
                                            HasSubstr("lower train.learning_rate"), HasSubstr("bf16 or fp32")));
}

// ---- curves ----

std::vector<double> losses_of(Dtype dtype, AdapterType type, std::int64_t experts) {
  // Rounding sends a token that is undecided between two experts to the other one: here every token sees all.
  const std::unique_ptr<Decoder> decoder = decoder_of(dtype, type, experts, experts);
  const TrainOptions train{.learning_rate = type == AdapterType::none ? 1e-3 : 5e-3,
                           .lr_scheduler_type = Scheduler::constant};
  const std::unique_ptr<Optimizer> optimizer = make_optimizer(decoder->trained(), train);
  LossScaler scaler;
  std::vector<double> losses;
  for (int step = 0; step < 12; ++step) {
    const auto outcome = lone_step(*decoder, *optimizer, {document(20, step % 2), document(30)}, train, step, 12,
                                   dtype == Dtype::fp16 ? &scaler : nullptr);
    losses.push_back(outcome->loss);
    EXPECT_FALSE(outcome->skipped) << step;
  }
  return losses;
}

struct Curve {
  const char* name;
  AdapterType type;
  std::int64_t experts = 0;
};

class Fp16Curve : public testing::TestWithParam<Curve> {};

// One rounding to fp16 is 4.9e-4. Adam divides by the size of a gradient, so differences grow with the steps.
TEST_P(Fp16Curve, IsFp32s) {
  const auto [name, type, experts] = GetParam();
  const std::vector<double> fp32 = losses_of(Dtype::fp32, type, experts), fp16 = losses_of(Dtype::fp16, type, experts);
  double worst = 0;
  for (std::size_t i = 0; i < fp32.size(); ++i) worst = std::max(worst, std::abs(fp16[i] - fp32[i]) / fp32[i]);
  EXPECT_LT(fp16.back(), 0.8 * fp16.front()) << "learns nothing";
  EXPECT_LE(worst, 2e-3) << name;
}

INSTANTIATE_TEST_SUITE_P(All, Fp16Curve,
                         testing::Values(Curve{"lora", AdapterType::lora}, Curve{"qlora", AdapterType::qlora},
                                         Curve{"full", AdapterType::none}, Curve{"experts", AdapterType::lora, 4}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace tune
