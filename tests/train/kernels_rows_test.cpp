// RMSNorm, rotary embedding and SwiGLU against their twins in fp64 on the same (rounded) inputs.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "tests/train/kernels_judging.h"
#include "train/kernels/rms_norm.h"
#include "train/kernels/rope.h"
#include "train/kernels/swiglu.h"
#include "train/kernels/vector_math.h"

namespace tune {
namespace {

constexpr double kEps = 1e-5;
constexpr double kFloatRoundoff = 0x1p-24;

struct RowShape {
  std::int64_t tokens, columns;
};
constexpr RowShape kRowShapes[] = {{1, 16}, {7, 50}, {65, 576}, {300, 512}};

std::string name_of(at::ScalarType type, const RowShape& shape) {
  return fmt::format("{} [{}, {}]", c10::toString(type), shape.tokens, shape.columns);
}

class RmsNorm : public KernelTest {};
class Rope : public KernelTest {};
class SwiGlu : public KernelTest {};

TEST(VectorMath, ExpIsWithinTwoUnitsInTheLastPlace) {
  for (float x = -87.0f; x < 88.5f; x += 0.00137f) {
    const double exact = std::exp(static_cast<double>(x));
    ASSERT_NEAR(fast_exp(x), exact, 2 * 0x1p-23 * exact) << x;
  }
  EXPECT_EQ(fast_exp(0.0f), 1.0f);
  EXPECT_EQ(fast_exp(-std::numeric_limits<float>::infinity()), 0.0f);
  EXPECT_EQ(fast_exp(-200.0f), 0.0f);
  EXPECT_EQ(fast_exp(std::numeric_limits<float>::infinity()), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(fast_exp(std::numeric_limits<float>::quiet_NaN())));
}

TEST(VectorMath, RoundsToBFloat16AsATenDoes) {
  for (const float x : {0.0f, -0.0f, 1.00390625f, 1.01171875f, -1.00390626f, 3.4e38f, 1e-40f,
                        std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
    EXPECT_EQ(from_float<c10::BFloat16>(x).x, c10::BFloat16(x).x) << x;
}

TEST(VectorMath, RoundsToHalfAsATenDoes) {
  for (std::uint32_t bits = 0; bits < 0xffff0000u; bits += 0x3fffu) {  // of all exponents, signs and NaNs
    const auto x = std::bit_cast<float>(bits);
    if (std::isnan(x)) continue;
    ASSERT_EQ(from_float<c10::Half>(x).x, c10::Half(x).x) << x;
  }
  EXPECT_TRUE(std::isnan(to_float(from_float<c10::Half>(std::numeric_limits<float>::quiet_NaN()))));
  for (std::uint32_t bits = 0; bits < 0x7c01u; ++bits) {
    const c10::Half half(static_cast<std::uint16_t>(bits), c10::Half::from_bits());
    ASSERT_EQ(to_float(half), static_cast<float>(half)) << bits;
    ASSERT_EQ(from_float<c10::Half>(to_float(half)).x, bits);
  }
}

TEST_F(RmsNorm, ForwardEqualsTheReference) {
  for (const at::ScalarType type : kTypes)
    for (const RowShape& shape : kRowShapes) {
      const at::Tensor x = random({shape.tokens, shape.columns}, type), weight = random({shape.columns}, type);
      const RmsNormResult result = rms_norm(x, weight, kEps);
      const at::Tensor expected = rms_norm_reference(x.to(at::kDouble), weight.to(at::kDouble), kEps);
      // the mean's `columns` additions in fp32, then two roundings to the type
      const double relative = (static_cast<double>(shape.columns) + 8) * kFloatRoundoff + 2.1 * unit_roundoff(type);
      expect_within(result.y, expected, expected.abs() * relative, name_of(type, shape));
      EXPECT_TRUE(at::equal(rms_norm_recompute(x, weight, result.inv_rms), result.y));
    }
}

TEST_F(RmsNorm, RoundsTwiceAsTransformersDoes) {
  const at::Tensor x = random({65, 576}, at::kBFloat16), weight = random({576}, at::kBFloat16);
  // the fp32 twin rounds at the same places; the mean's last bits may move a value across a tie now and then
  const at::Tensor differs = rms_norm(x, weight, kEps).y.ne(rms_norm_reference(x, weight, kEps));
  EXPECT_LT(differs.to(at::kFloat).mean().item<float>(), 1e-3);
}

TEST_F(RmsNorm, AddsTheResidualFirst) {
  for (const at::ScalarType type : kTypes)
    for (const RowShape& shape : kRowShapes) {
      const at::Tensor before = random({shape.tokens, shape.columns}, type),
                       delta = random({shape.tokens, shape.columns}, type);
      const at::Tensor weight = random({shape.columns}, type), sum = before + delta;
      at::Tensor residual = before.clone();
      const RmsNormResult fused = add_rms_norm_(residual, delta, weight, kEps), plain = rms_norm(sum, weight, kEps);
      EXPECT_TRUE(at::equal(residual, sum)) << name_of(type, shape);
      EXPECT_TRUE(at::equal(fused.y, plain.y) && at::equal(fused.inv_rms, plain.inv_rms)) << name_of(type, shape);
    }
}

TEST_F(RmsNorm, BackwardEqualsAutograd) {
  for (const at::ScalarType type : kTypes)
    for (const RowShape& shape : kRowShapes) {
      const at::Tensor x = random({shape.tokens, shape.columns}, type), weight = random({shape.columns}, type);
      const at::Tensor dy = random({shape.tokens, shape.columns}, type),
                       before = random({shape.tokens, shape.columns}, type);
      const at::Tensor wide_x = leaf(x, at::kDouble), wide_weight = leaf(weight, at::kDouble);
      rms_norm_reference(wide_x, wide_weight, kEps).backward(dy.to(at::kDouble));

      const RmsNormResult forward = rms_norm(x, weight, kEps);
      at::Tensor dx = before.clone(), d_weight = at::ones({shape.columns});
      rms_norm_backward_add_(dx, dy, x, weight, forward.inv_rms, d_weight);

      // sums of `columns` (dx) and `tokens` (d_weight) terms; the same sums of absolute values are the scale
      const at::Tensor n = (wide_x.detach() * forward.inv_rms.to(at::kDouble).unsqueeze(1)).abs();
      const at::Tensor g = (weight.to(at::kDouble) * dy.to(at::kDouble)).abs();
      const at::Tensor dx_scale = forward.inv_rms.unsqueeze(1) * (g + n * (g * n).mean(-1, true)) + before.abs();
      const at::Tensor dx_expected = before.to(at::kDouble) + wide_x.grad();
      expect_within(dx, dx_expected,
                    dx_scale * ((static_cast<double>(shape.columns) + 16) * kFloatRoundoff) +
                        dx_expected.abs() * (1.01 * unit_roundoff(type)),
                    name_of(type, shape) + " dx");
      const at::Tensor d_weight_scale = (n * dy.abs()).sum(0) + 1;
      expect_within(d_weight, wide_weight.grad() + 1,
                    d_weight_scale * (static_cast<double>(shape.tokens + shape.columns + 8) * kFloatRoundoff +
                                      (type == at::kFloat ? 0 : unit_roundoff(type))),
                    name_of(type, shape) + " d_weight");

      at::Tensor without = before.clone();
      rms_norm_backward_add_(without, dy, x, weight, forward.inv_rms, {});
      EXPECT_TRUE(at::equal(without, dx)) << "a frozen weight changes dx";
    }
}

TEST_F(RmsNorm, GivesTheSameBitsOnAnyNumberOfThreads) {
  const at::Tensor x = random({300, 576}, at::kBFloat16), weight = random({576}, at::kBFloat16);
  const at::Tensor dy = random({300, 576}, at::kBFloat16);
  const RmsNormResult forward = rms_norm(x, weight, kEps);
  const int threads = at::get_num_threads();
  std::vector<at::Tensor> d_weights;
  for (const int count : {1, 2, 3}) {
    at::set_num_threads(count);
    at::Tensor dx = at::zeros_like(x), d_weight = at::zeros({576});
    rms_norm_backward_add_(dx, dy, x, weight, forward.inv_rms, d_weight);
    d_weights.push_back(d_weight);
  }
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(d_weights[0], d_weights[1]) && at::equal(d_weights[0], d_weights[2]));
}

TEST_F(Rope, RotatesTheFirstHeadsOfStridedRows) {
  constexpr std::int64_t kTokens = 65, kHeads = 3, kOthers = 2;
  const at::Tensor positions = at::randint(0, 4000, {kTokens}, at::TensorOptions(at::kInt));
  for (const at::ScalarType type : kTypes)
    for (const std::int64_t head_dim : {2, 16, 50, 64}) {
      const RopeTable table = make_rope_table(4000, head_dim, 10000.0, at::kCPU);
      const at::Tensor before = random({kTokens, (kHeads + kOthers) * head_dim + 5}, type);
      const at::Tensor rotated = before.narrow(1, 0, kHeads * head_dim);
      const at::Tensor x = leaf(rotated, at::kDouble);
      const at::Tensor expected = rope_reference(x, kHeads, head_dim, positions, 10000.0);

      at::Tensor after = before.clone();
      rope_(after, kHeads, head_dim, positions, table, false);
      // two products and a sum in fp32, one rounding; cosine and sine come from the same fp32 angles
      const at::Tensor pairs = x.detach().view({kTokens, kHeads, 2, head_dim / 2}).abs();
      const at::Tensor scale = pairs.sum(2, true).expand_as(pairs).reshape(x.sizes());
      const at::Tensor bound = scale * (4 * kFloatRoundoff) + expected.detach().abs() * (1.01 * unit_roundoff(type));
      expect_within(after.narrow(1, 0, kHeads * head_dim), expected.detach(), bound, "forward");
      EXPECT_TRUE(at::equal(after.narrow(1, kHeads * head_dim, kOthers * head_dim + 5),
                            before.narrow(1, kHeads * head_dim, kOthers * head_dim + 5)));

      expected.backward(rotated.to(at::kDouble));
      at::Tensor gradient = before.clone();
      rope_(gradient, kHeads, head_dim, positions, table, true);
      expect_within(gradient.narrow(1, 0, kHeads * head_dim), x.grad(),
                    scale * (4 * kFloatRoundoff) + x.grad().abs() * (1.01 * unit_roundoff(type)), "backward");
    }
}

TEST_F(Rope, RowsDoNotDependOnTheTablesSize) {
  const RopeTable small = make_rope_table(100, 64, 10000.0, at::kCPU),
                  large = make_rope_table(3000, 64, 10000.0, at::kCPU);
  EXPECT_TRUE(at::equal(small.cosine, large.cosine.narrow(0, 0, 100)));
  EXPECT_TRUE(at::equal(small.sine, large.sine.narrow(0, 0, 100)));
  EXPECT_EQ(small.cosine[0].min().item<float>(), 1.0f);
  EXPECT_NEAR(small.sine[1][0].item<float>(), std::sin(1.0), 1e-7);
}

TEST_F(SwiGlu, EqualsTheReference) {
  for (const at::ScalarType type : kTypes)
    for (const RowShape& shape : kRowShapes) {
      const at::Tensor gate_up = random({shape.tokens, 2 * shape.columns}, type).mul_(4);
      const at::Tensor d_y = random({shape.tokens, shape.columns}, type);
      const at::Tensor wide = leaf(gate_up, at::kDouble), expected = swiglu_reference(wide);
      expected.backward(d_y.to(at::kDouble));
      // e^x to 2 units, then a handful of operations; one rounding to the type
      const double relative = 12 * kFloatRoundoff, rounding = 1.01 * unit_roundoff(type);
      expect_within(swiglu(gate_up), expected.detach(), expected.detach().abs() * (relative + rounding),
                    name_of(type, shape));

      at::Tensor gradient = gate_up.clone();
      swiglu_backward_(gradient, d_y);
      // 1 + g (1 - s) cancels for negative g: the bound is of its terms
      const auto halves = wide.detach().chunk(2, 1);
      const at::Tensor s = halves[0].sigmoid();
      const at::Tensor d_gate = (d_y * halves[1] * s).abs() * (1 + halves[0].abs()), d_up = (d_y * halves[0] * s).abs();
      expect_within(gradient, wide.grad(), at::cat({d_gate, d_up}, 1) * relative + wide.grad().abs() * rounding,
                    name_of(type, shape) + " gradient");
    }
}

}  // namespace
}  // namespace tune
