#include "train/kernels/fp8.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "recipes/schema/error.h"
#include "tests/train/lone_step.h"
#include "tests/train/small_models.h"
#include "train/device.h"
#include "train/model/linear.h"
#include "train/objectives/supervised.h"
#include "train/parallel/sharded_weights.h"

// On the CPU at::_scaled_mm multiplies as on Hopper, only slowly: `precision: fp8` is refused there, what it does is
// not.

namespace tune {
namespace {

constexpr double kBf16 = 0x1p-9, kE4m3 = 0x1p-4;  // half the distance of neighbours, of a number's magnitude

// Every finite number of e4m3: a sign, 4 bits of exponent with a bias of 7, 3 of mantissa; only all ones is no number.
std::vector<float> all_of_e4m3() {
  std::vector<float> all;
  for (int bits = 0; bits < 127; ++bits) {
    const int exponent = bits >> 3, mantissa = bits & 7;
    const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                          : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
    all.insert(all.end(), {magnitude, -magnitude});
  }
  return all;
}

TEST(Fp8, ValuesAreTheNearestOfE4m3) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({40, 32}) * at::randn({40, 1}).exp();
  const Fp8Rows rows = fp8_quantize(x);
  const std::vector<float> all = all_of_e4m3();
  for (std::int64_t i = 0; i < x.size(0); ++i) {
    const float scale = rows.scales[i].item<float>();
    EXPECT_FLOAT_EQ(scale, x[i].abs().max().item<float>() / 448);
    for (std::int64_t j = 0; j < x.size(1); ++j) {
      const double exact = static_cast<double>(x[i][j].item<float>()) / static_cast<double>(scale),
                   found = rows.values[i][j].to(at::kFloat).item<float>();
      double least = 1e30;
      for (const float candidate : all) least = std::min(least, std::abs(candidate - exact));
      EXPECT_LE(std::abs(found - exact), least * (1 + 1e-4)) << exact;  // the quotient is rounded, too
    }
  }
}

TEST(Fp8, RowsOfZerosStayZeroAndInfinitySpoilsItsOwnRowOnly) {
  at::Tensor x = at::ones({3, 16});
  x[0].zero_();
  x[1][5] = std::numeric_limits<float>::infinity();
  const Fp8Rows rows = fp8_quantize(x);
  const at::Tensor back = rows.values.to(at::kFloat) * rows.scales;
  EXPECT_TRUE(back[0].eq(0).all().item<bool>());
  EXPECT_TRUE(back[1].sum().isnan().item<bool>());
  EXPECT_TRUE(at::allclose(back[2], x[2]));
}

TEST(Fp8, FactorsComeBeforeScales) {
  const at::Tensor x = at::randn({7, 48}), factors = at::rand({48}) + 0.1;
  const Fp8Rows rows = fp8_quantize(x, factors), expected = fp8_quantize(x * factors);
  EXPECT_TRUE(at::equal(rows.values.to(at::kFloat), expected.values.to(at::kFloat)));
  EXPECT_TRUE(at::equal(rows.scales, expected.scales));
}

Fp8Matrix random_matrix(std::int64_t rows, std::int64_t columns) {
  Fp8Matrix matrix = make_fp8_matrix(rows, columns, at::kCPU);
  const Fp8Rows quantized = fp8_quantize(at::randn({rows, columns}) * at::rand({rows, 1}));
  matrix.values().copy_(quantized.values);
  matrix.scales().copy_(quantized.scales);
  return matrix;
}

// Against the dequantised matrix: of a product's terms, the other factor was rounded to e4m3; then the sum to bf16.
void expect_product(const at::Tensor& found, const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor exact = at::matmul(a.to(at::kDouble), b.to(at::kDouble));
  const at::Tensor terms = at::matmul(a.to(at::kDouble).abs(), b.to(at::kDouble).abs());
  const at::Tensor smallest = at::matmul(a.to(at::kDouble).abs().amax(1, true).expand_as(a), b.to(at::kDouble).abs());
  const at::Tensor bound = terms * kE4m3 + smallest * (0x1p-10 / 448) + exact.abs() * kBf16 + 1e-5;
  EXPECT_TRUE(((found.to(at::kDouble) - exact).abs() <= bound).all().item<bool>());
  // and not only somewhere within the bound: errors are independent, so that their sum is far smaller
  EXPECT_LE((found.to(at::kDouble) - exact).norm().item<double>(), 0.04 * exact.norm().item<double>());
}

TEST(Fp8, ProductsAreThoseOfTheDequantisedMatrix) {
  at::manual_seed(11);
  const Fp8Matrix weight = random_matrix(48, 80);
  const at::Tensor whole = fp8_dequantize(weight, 0, 48), x = at::randn({9, 80}).to(at::kBFloat16),
                   dy = at::randn({9, 48}).to(at::kBFloat16);
  EXPECT_EQ(fp8_matmul_nt(x, weight, {}).scalar_type(), at::kBFloat16);
  expect_product(fp8_matmul_nt(x, weight, {}), x, whole.t());
  // the factor that is rounded has taken on the rows' scales
  expect_product(fp8_matmul_nn(dy, weight, {}), dy.to(at::kFloat) * weight.scales().view({1, -1}),
                 weight.values().to(at::kFloat));
}

// A loss is divided by a step's tokens before it is differentiated, so that gradients are small.
TEST(Fp8, SmallGradientsKeepTheirDigits) {
  at::manual_seed(13);
  const Fp8Matrix weight = random_matrix(48, 80);
  const at::Tensor dy = at::randn({9, 48});
  const double small = 0x1p-60;
  EXPECT_TRUE(at::equal(fp8_matmul_nn(dy * small, weight, {}), fp8_matmul_nn(dy, weight, {}) * small));
}

TEST(Fp8, EachGroupHasItsOwnMatrix) {
  at::manual_seed(12);
  const Fp8Matrix weight = random_matrix(3 * 32, 64);
  const RowGroups groups{at::tensor({4, 4, 9}, at::kInt)};  // the second has no rows
  const at::Tensor x = at::randn({9, 64}).to(at::kBFloat16), dy = at::randn({9, 32}).to(at::kBFloat16);
  const at::Tensor y = fp8_matmul_nt(x, weight, groups), dx = fp8_matmul_nn(dy, weight, groups);
  for (const RowGroup& group : {RowGroup{0, 0, 4}, RowGroup{2, 4, 5}}) {
    const at::Tensor part = fp8_dequantize(weight, group.number * 32, 32);
    expect_product(y.narrow(0, group.first, group.rows), x.narrow(0, group.first, group.rows), part.t());
    expect_product(dx.narrow(0, group.first, group.rows), dy.narrow(0, group.first, group.rows), part);
  }
}

TEST(Fp8, IsRefusedOnTheCpu) {
  try {
    require_fp8("cpu", {"r.yaml", 7, 3});
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.fault(), Fault::recipe);
    EXPECT_STREQ(
        error.what(),
        "r.yaml:7:3: precision is fp8, whose products need a GPU of compute capability 9.0 (Hopper); this is the "
        "CPU; write precision: bf16 and, where memory is short, adapter.type: qlora");
  }
}

DecoderOptions options_of(bool fp8, LoraInit init = LoraInit::standard) {
  return {.fp8_base = fp8, .adapter = {.lora_r = 4, .lora_alpha = 8, .init_lora_weights = init}};
}

TEST(Fp8, OnlyTheLinearLayersOfTheBaseAreKeptInIt) {
  LinearGroup group({{.name = "m.k_proj", .rows = 32}, {.name = "m.v_proj", .rows = 16}}, 64, options_of(true));
  EXPECT_EQ(group.weight().scalar_type(), at::kByte);
  EXPECT_EQ(group.weight().numel(), 48 * (64 + 4));
  EXPECT_EQ(LinearGroup({{.name = "m.gate", .rows = 4}}, 64, options_of(true), 1, false).weight().scalar_type(),
            at::kBFloat16);
  const ModelConfig config = small_model();
  const Decoder decoder(config, RandomModel(config, 0.1), options_of(true));
  EXPECT_EQ(decoder.head_weight().scalar_type(), at::kBFloat16);
}

std::vector<double> losses_of(const ModelConfig& config, const DecoderOptions& options,
                              std::unique_ptr<WeightKeeper> keeper = nullptr) {
  at::manual_seed(5);
  Decoder decoder(config, RandomModel(config, 0.1), options, std::move(keeper));
  const TrainOptions train{.learning_rate = 5e-3, .lr_scheduler_type = Scheduler::constant};
  const std::unique_ptr<Optimizer> optimizer = make_optimizer(decoder.trained(), train);
  std::vector<double> losses;
  for (int step = 0; step < 12; ++step)
    losses.push_back(lone_step(decoder, *optimizer, {document(20, step % 2), document(30)}, train, step, 12)->loss);
  return losses;
}

// Where each expert sees all tokens: rounding sends one that is undecided to another expert.
TEST(Fp8, LearnsAsBf16Does) {
  for (const SmallModel& model : {SmallModel{}, SmallModel{.experts = 4, .chosen = 4}})
    for (const LoraInit init : {LoraInit::standard, LoraInit::pissa}) {
      const ModelConfig config = small_model(model);
      const std::vector<double> bf16 = losses_of(config, options_of(false, init)),
                                fp8 = losses_of(config, options_of(true, init));
      double worst = 0;
      for (std::size_t i = 0; i < bf16.size(); ++i) worst = std::max(worst, std::abs(fp8[i] - bf16[i]) / bf16[i]);
      EXPECT_LT(fp8.back(), 0.8 * fp8.front()) << "learns nothing";
      EXPECT_LE(worst, 0.04) << model.experts << " experts";
    }
}

TEST(Fp8, LearnsTheSameOverAShardedBase) {
  World alone;
  for (const std::int64_t experts : {0, 4}) {
    const ModelConfig config = small_model({.layers = 3, .experts = experts, .chosen = experts});
    EXPECT_EQ(losses_of(config, options_of(true), std::make_unique<ShardedWeights>(alone)),
              losses_of(config, options_of(true)));
  }
}

}  // namespace
}  // namespace tune
