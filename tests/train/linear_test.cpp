#include "train/model/linear.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/variable.h>

#include <cmath>

namespace tune {
namespace {

constexpr std::int64_t kWidth = 48, kTokens = 500;
constexpr double kDrop = 0.3;
const DropoutKey kKey{.probability = kDrop, .seed = 1234};

// Two adapted layers over one input, rank and width alike, so that A = B = 1 lets the masked input itself come out.
struct Pair {
  Pair() {
    at::manual_seed(3);
    DecoderOptions options{.dtype = Dtype::fp32};
    options.adapter = {.lora_r = kWidth, .lora_alpha = kWidth};
    group = LinearGroup({{.name = "m.k_proj", .rows = kWidth}, {.name = "m.v_proj", .rows = kWidth}}, kWidth, options);
    group.weight().zero_();
    group.add_adapter({"k_proj", "v_proj"}, options);
    group.append_parameters(parameters);  // A and B of k_proj, A and B of v_proj
    for (Parameter& parameter : parameters) set(parameter, at::eye(kWidth));
  }

  static void set(Parameter& parameter, const at::Tensor& values) {
    parameter.master.copy_(values);
    parameter.value.copy_(values);
  }

  // [tokens, 2 * width]: mask / keep of either layer
  at::Tensor masks() const { return group.forward(at::ones({kTokens, kWidth}), nullptr, AdapterUse::on, kKey); }

  LinearGroup group;
  std::vector<Parameter> parameters;
};

TEST(LoraDropout, DropsItsShareAndScalesTheRest) {
  const Pair pair;
  const at::Tensor masks = pair.masks();
  const at::Tensor dropped = masks == 0;
  EXPECT_TRUE((dropped | ((masks - 1 / (1 - kDrop)).abs() < 1e-6)).all().item<bool>());
  constexpr double kCount = kTokens * kWidth;
  const double deviation = std::sqrt(kDrop * (1 - kDrop) / kCount);  // of the share, a binomial's
  for (const std::int64_t layer : {0, 1}) {
    const double share = dropped.narrow(1, layer * kWidth, kWidth).to(at::kDouble).mean().item<double>();
    EXPECT_NEAR(share, kDrop, 5 * deviation);
    const double mean = masks.narrow(1, layer * kWidth, kWidth).to(at::kDouble).mean().item<double>();
    EXPECT_NEAR(mean, 1.0, 5 * deviation / (1 - kDrop));
  }
  // each layer draws a mask of its own: they agree by chance only
  const double agree =
      (dropped.narrow(1, 0, kWidth) == dropped.narrow(1, kWidth, kWidth)).to(at::kDouble).mean().item<double>();
  const double expected = kDrop * kDrop + (1 - kDrop) * (1 - kDrop);
  EXPECT_NEAR(agree, expected, 5 * std::sqrt(expected * (1 - expected) / kCount));
}

TEST(LoraDropout, AnotherSeedIsAnotherMaskAndTheSameSeedTheSame) {
  const Pair pair;
  const at::Tensor x = at::ones({kTokens, kWidth});
  EXPECT_TRUE(at::equal(pair.masks(), pair.masks()));
  EXPECT_FALSE(
      at::equal(pair.masks(), pair.group.forward(x, nullptr, AdapterUse::on, {.probability = kDrop, .seed = 1238})));
  EXPECT_TRUE(at::equal(pair.group.forward(x, nullptr, AdapterUse::on, {}), at::ones({kTokens, 2 * kWidth})));
}

TEST(LoraDropout, GradientsEqualAutogradUnderTheSameMasks) {
  Pair pair;
  const at::Tensor masks = pair.masks();
  for (Parameter& parameter : pair.parameters) Pair::set(parameter, at::randn({kWidth, kWidth}) * 0.2);
  const at::Tensor x = at::randn({kTokens, kWidth}), d_y = at::randn({kTokens, 2 * kWidth});

  std::vector<at::Tensor> inputs = {x.clone().requires_grad_()};
  for (const Parameter& parameter : pair.parameters) inputs.push_back(parameter.value.clone().requires_grad_());
  const auto expected_y = [&](std::int64_t layer) {
    const at::Tensor masked = inputs[0] * masks.narrow(1, layer * kWidth, kWidth);
    return at::matmul(at::matmul(masked, inputs[static_cast<std::size_t>(1 + 2 * layer)].t()),
                      inputs[static_cast<std::size_t>(2 + 2 * layer)].t());
  };
  const at::Tensor expected = at::cat({expected_y(0), expected_y(1)}, 1);
  const auto gradients = torch::autograd::grad({(expected * d_y).sum()}, inputs);

  at::Tensor down;
  const at::Tensor y = pair.group.forward(x, &down, AdapterUse::on, kKey);
  const at::Tensor d_x = pair.group.backward(d_y, x, down, true, kKey);
  const auto expect_close = [](const at::Tensor& actual, const at::Tensor& wanted, const std::string& what) {
    // fp32 sums of at most kTokens terms: eps * terms * largest value
    EXPECT_LE((actual - wanted).abs().max().item<double>(), 6e-8 * kTokens * wanted.abs().max().item<double>()) << what;
  };
  expect_close(y, expected, "y");
  expect_close(d_x, gradients[0], "d_x");
  for (std::size_t i = 0; i < pair.parameters.size(); ++i)
    expect_close(pair.parameters[i].gradient, gradients[i + 1], pair.parameters[i].name);
}

}  // namespace
}  // namespace tune
