#include "train/step.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "recipes/schema/error.h"
#include "tests/train/lone_step.h"
#include "tests/train/small_models.h"

namespace tune {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

ModelConfig model() { return small_model({.layers = 3, .hidden = 32, .inner = 48}); }

// fp32 only.
class ModelWithOneLargeTensor : public RandomModel {
 public:
  explicit ModelWithOneLargeTensor(std::string name) : RandomModel(model(), 0.15), name_(std::move(name)) {}

  void read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const override {
    RandomModel::read(name, dtype, destination);
    if (name != name_) return;
    auto* values = reinterpret_cast<float*>(destination.data());
    for (std::size_t i = 0; i < destination.size() / sizeof(float); ++i) values[i] *= 1e38f;
  }

 private:
  std::string name_;
};

DecoderOptions lora_options() {
  DecoderOptions options{.dtype = Dtype::fp32};
  options.adapter = {.lora_r = 2, .lora_alpha = 4};
  return options;
}

class ModuleOverflow : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { at::manual_seed(5); }
};

TEST_P(ModuleOverflow, IsFoundInTheModuleThatMadeIt) {
  const std::string module = GetParam();
  Decoder decoder(model(), ModelWithOneLargeTensor(module + ".weight"), lora_options());
  EXPECT_THAT(decoder.first_overflow(document(12)), testing::StartsWith(module + " (largest value "));
}

INSTANTIATE_TEST_SUITE_P(All, ModuleOverflow,
                         testing::Values("model.embed_tokens", "model.layers.0.self_attn.q_proj",
                                         "model.layers.2.self_attn.k_proj", "model.layers.1.self_attn.v_proj",
                                         "model.layers.1.self_attn.o_proj", "model.layers.0.mlp.gate_proj",
                                         "model.layers.1.mlp.up_proj", "model.layers.2.mlp.down_proj", "model.norm"));

TEST(Step, WithoutOverflowNoModuleIsNamed) {
  at::manual_seed(5);
  Decoder decoder(model(), RandomModel(model(), 0.15), lora_options());
  EXPECT_EQ(decoder.first_overflow(document(12)), "");
}

// The message of the error that ends step `step`.
std::string report_of(Decoder& decoder, const TrainOptions& train, std::int64_t step) {
  const std::unique_ptr<Optimizer> optimizer = make_optimizer(decoder.trained(), train);
  try {
    lone_step(decoder, *optimizer, {document(12), document(12)}, train, step, 100);
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), 1);
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Step, NonFiniteLossNamesTheModuleAndOnlyWhatHelps) {
  at::manual_seed(5);
  Decoder decoder(model(), ModelWithOneLargeTensor("lm_head.weight"), lora_options());
  EXPECT_THAT(report_of(decoder, {}, 0),
              AllOf(HasSubstr("step 1: loss "), HasSubstr("first bad tensor: the logits, output of lm_head"),
                    Not(HasSubstr("-nan")), Not(HasSubstr("fp32")), Not(HasSubstr("learning_rate"))));
  Decoder inner(model(), RandomModel(model(), 0.15), lora_options());
  for (Parameter& parameter : inner.trained())
    if (parameter.name == "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight") parameter.value.fill_(3e38);
  const std::string report = report_of(inner, {.learning_rate = 0.5, .max_grad_norm = 0}, 7);
  EXPECT_THAT(
      report,
      AllOf(HasSubstr("step 8: loss "), HasSubstr("the output of model.layers.1.mlp.up_proj (largest value "),
            HasSubstr("train.learning_rate (0.5 now)"), HasSubstr("train.max_grad_norm"), Not(HasSubstr("fp32"))));
}

TEST(Step, NonFiniteWeightIsNamed) {
  at::manual_seed(5);
  Decoder decoder(model(), RandomModel(model(), 0.15), lora_options());
  Parameter& parameter = decoder.trained().at(9);
  parameter.value.fill_(std::numeric_limits<float>::quiet_NaN());
  EXPECT_THAT(report_of(decoder, {.warmup_ratio = 0.1}, 3),
              AllOf(HasSubstr("first bad tensor: " + parameter.name + " itself"), Not(HasSubstr("max_grad_norm")),
                    Not(HasSubstr("warmup"))));
}

}  // namespace
}  // namespace tune
