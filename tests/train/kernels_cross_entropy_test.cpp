#include <gtest/gtest.h>

#include <cmath>

#include "tests/train/kernels_judging.h"
#include "train/kernels/cross_entropy.h"

namespace tune {
namespace {

struct Shape {
  std::int64_t rows, hidden, vocab, chunk_rows;
};
constexpr Shape kShapes[] = {{1, 16, 7, 256}, {65, 576, 1000, 16}, {130, 64, 333, 256}, {129, 48, 500, 64}};
constexpr double kScale = 0.037;

class CrossEntropy : public KernelTest {};

TEST_F(CrossEntropy, EqualsAutogradOfTheReference) {
  for (const at::ScalarType type : kTypes)
    for (const Shape& s : kShapes) {
      const std::string what = fmt::format("{} {} x {} x {}", c10::toString(type), s.rows, s.hidden, s.vocab);
      const at::Tensor hidden = random({s.rows, s.hidden}, type);
      const at::Tensor weight = random({s.vocab, s.hidden}, at::kFloat).div_(std::sqrt(s.hidden)).to(type);
      const at::Tensor labels = at::randint(0, s.vocab, {s.rows}, at::TensorOptions(at::kLong));
      const at::Tensor wide_hidden = leaf(hidden, at::kDouble), wide_weight = leaf(weight, at::kDouble);
      const at::Tensor loss = linear_cross_entropy_reference(wide_hidden, wide_weight, labels);
      loss.backward(at::full({}, kScale, at::kDouble));

      const at::Tensor d_weight = at::ones({s.vocab, s.hidden});
      const CrossEntropyResult result =
          linear_cross_entropy(hidden, weight, labels, kScale, true, d_weight, s.chunk_rows);

      // a logit is off by hidden products in fp32 and a rounding to the type; so are a probability's relative error
      // and, twice, a row's loss
      const double largest = at::mm(hidden.to(at::kDouble), weight.to(at::kDouble).t()).abs().max().item<double>();
      const double magnitude =
          at::mm(hidden.to(at::kDouble).abs(), weight.to(at::kDouble).t().abs()).max().item<double>();
      const double roundoff = type == at::kFloat ? 0 : unit_roundoff(type);
      const double logit = magnitude * static_cast<double>(s.hidden) * 0x1p-24 + largest * roundoff;
      const double sums = static_cast<double>(s.vocab + s.rows + 32) * 0x1p-24;
      EXPECT_NEAR(result.loss_sum, loss.item<double>(),
                  2 * logit * static_cast<double>(s.rows) + sums * std::abs(loss.item<double>()))
          << what;
      const double relative = 2 * logit + sums + 2.1 * roundoff;  // of d_logits, then of a result rounded to the type
      expect_within(result.d_hidden, wide_hidden.grad(), relative * wide_hidden.grad().abs().max().item<double>(),
                    what + " d_hidden");
      expect_within(d_weight, wide_weight.grad() + 1,
                    relative * wide_weight.grad().abs().max().item<double>() + 0x1p-23, what + " d_weight");
    }
}

TEST_F(CrossEntropy, UniformLogitsCostTheLogarithmOfTheVocabulary) {
  const at::Tensor labels = at::arange(5, at::TensorOptions(at::kLong));
  const auto result = linear_cross_entropy(at::zeros({5, 8}), at::randn({100, 8}), labels, 1.0, false, {});
  EXPECT_NEAR(result.loss_sum, 5 * std::log(100.0), 1e-5);
  EXPECT_FALSE(result.d_hidden.defined());
}

TEST_F(CrossEntropy, HugeLogitsDoNotOverflow) {
  const at::Tensor hidden = at::full({2, 1}, 1e4f), weight = at::arange(-2, 3, at::kFloat).unsqueeze(1);
  const at::Tensor labels = at::full({2}, 4, at::kLong);
  EXPECT_EQ(linear_cross_entropy(hidden, weight, labels, 1.0, true, {}).loss_sum, 0.0);
  EXPECT_EQ(linear_cross_entropy(hidden, weight, at::zeros_like(labels), 1.0, true, {}).loss_sum, 8e4);
}

TEST_F(CrossEntropy, NaNReachesTheLoss) {
  at::Tensor hidden = at::ones({3, 4});
  hidden[1][2] = std::numeric_limits<float>::quiet_NaN();
  const auto result = linear_cross_entropy(hidden, at::randn({9, 4}), at::zeros({3}, at::kLong), 1.0, true, {});
  EXPECT_TRUE(std::isnan(result.loss_sum));
}

TEST_F(CrossEntropy, NoRowsCostNothing) {
  const auto result =
      linear_cross_entropy(at::zeros({0, 4}), at::randn({9, 4}), at::zeros({0}, at::kLong), 1.0, true, {});
  EXPECT_EQ(result.loss_sum, 0.0);
  EXPECT_EQ(result.d_hidden.size(0), 0);
}

TEST_F(CrossEntropy, RepeatsToTheLastBit) {
  const at::Tensor hidden = random({130, 64}, at::kBFloat16), weight = random({500, 64}, at::kBFloat16);
  const at::Tensor labels = at::randint(0, 500, {130}, at::TensorOptions(at::kLong));
  const at::Tensor first_weight = at::zeros({500, 64}), second_weight = at::zeros({500, 64});
  const auto first = linear_cross_entropy(hidden, weight, labels, kScale, true, first_weight, 64);
  const auto second = linear_cross_entropy(hidden, weight, labels, kScale, true, second_weight, 64);
  EXPECT_EQ(first.loss_sum, second.loss_sum);
  EXPECT_TRUE(at::equal(first.d_hidden, second.d_hidden) && at::equal(first_weight, second_weight));
}

}  // namespace
}  // namespace tune
