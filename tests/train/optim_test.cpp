#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "recipes/schema/error.h"
#include "train/kernels/stochastic_round.h"
#include "train/optim/clip.h"
#include "train/optim/optimizer.h"

namespace tune {
namespace {

Parameter parameter(const std::string& name, const at::Tensor& value, bool decays = true) {
  const at::Tensor master = value.scalar_type() == at::kFloat ? value : value.to(at::kFloat);
  return {.name = name, .value = value, .master = master, .gradient = at::zeros_like(master), .decays = decays};
}

// The algorithm as Loshchilov & Hutter 2019 write it (their algorithm 2 with a constant schedule multiplier, and decay
// scaled by the learning rate as torch.optim.AdamW has it), one plain fp64 step after the other.
struct PlainAdamW {
  at::Tensor w, m, v;
  explicit PlainAdamW(const at::Tensor& start) : w(start.to(at::kDouble)), m(at::zeros_like(w)), v(at::zeros_like(w)) {}
  void step(const at::Tensor& gradient, int t, double lr, const TrainOptions& o, double decay) {
    const at::Tensor g = gradient.to(at::kDouble);
    w = w * (1 - lr * decay);
    m = o.adam_beta1 * m + (1 - o.adam_beta1) * g;
    v = o.adam_beta2 * v + (1 - o.adam_beta2) * g * g;
    const at::Tensor m_hat = m / (1 - std::pow(o.adam_beta1, t)), v_hat = v / (1 - std::pow(o.adam_beta2, t));
    w = w - lr * m_hat / (v_hat.sqrt() + o.adam_epsilon);
  }
};

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

class AdamW : public ::testing::Test {
 protected:
  void SetUp() override { at::manual_seed(11); }
  const TrainOptions options_{.adam_beta2 = 0.95, .weight_decay = 0.1};
};

TEST_F(AdamW, FollowsThePaperAndSparesNormsFromDecay) {
  std::vector<Parameter> parameters = {parameter("matrix", at::randn({33, 17})),
                                       parameter("norm", at::randn({17}), /*decays=*/false)};
  PlainAdamW matrix(parameters[0].master), norm(parameters[1].master);
  const auto optimizer = make_optimizer(parameters, options_);
  constexpr double kRate = 1e-2;
  constexpr int kSteps = 20;
  for (int t = 1; t <= kSteps; ++t) {
    for (Parameter& p : parameters) p.gradient.copy_(at::randn(p.gradient.sizes()));
    matrix.step(parameters[0].gradient, t, kRate, options_, options_.weight_decay);
    norm.step(parameters[1].gradient, t, kRate, options_, 0);
    optimizer->step(kRate);
  }
  // a step rounds a weight of at most 8 and an update of at most lr * 10 to fp32 a few times
  const double tolerance = kSteps * 4 * 8 * std::numeric_limits<float>::epsilon();
  EXPECT_LT(largest_difference(parameters[0].value, matrix.w), tolerance);
  EXPECT_LT(largest_difference(parameters[1].value, norm.w), tolerance);
}

TEST_F(AdamW, ZeroesGradientsAfterTheStep) {
  std::vector<Parameter> parameters = {parameter("a", at::randn({5}))};
  const auto optimizer = make_optimizer(parameters, options_);
  parameters[0].gradient.fill_(1);
  optimizer->step(1e-3);
  EXPECT_EQ(parameters[0].gradient.abs().sum().item<float>(), 0);
}

TEST_F(AdamW, SmallUpdatesAddUpInTheMasterAndTheValueIsItsRounding) {
  std::vector<Parameter> parameters = {parameter("a", at::ones({8}, at::kBFloat16))};
  const auto optimizer = make_optimizer(parameters, TrainOptions{});
  for (int t = 0; t < 100; ++t) {
    parameters[0].gradient.fill_(1);
    optimizer->step(1e-4);  // far below bf16's resolution at 1, which is 2^-8
  }
  EXPECT_NEAR(parameters[0].master[0].item<float>(), 1 - 100 * 1e-4, 1e-5);
  EXPECT_TRUE(same_bits(parameters[0].value, parameters[0].master.to(at::kBFloat16)));
  EXPECT_LT(parameters[0].value[0].item<float>(), 1);
}

TEST_F(AdamW, WritesThroughStridedValues) {
  at::Tensor whole = at::zeros({4, 6}, at::kBFloat16);
  std::vector<Parameter> parameters = {parameter("block", whole.narrow(1, 2, 3))};
  const auto optimizer = make_optimizer(parameters, TrainOptions{});
  parameters[0].gradient.fill_(1);
  optimizer->step(0.5);
  EXPECT_NEAR(whole.narrow(1, 2, 3).to(at::kFloat).max().item<float>(), -0.5, 1e-3);
  EXPECT_EQ(whole.narrow(1, 0, 2).abs().sum().item<float>(), 0);
  EXPECT_EQ(whole.narrow(1, 5, 1).abs().sum().item<float>(), 0);
}

void expect_the_same_after_a_restart(const TrainOptions& options) {
  const at::Tensor start = at::randn({40, 3});
  const std::vector<at::Tensor> gradients = {at::randn({40, 3}), at::randn({40, 3}), at::randn({40, 3})};
  std::vector<Parameter> whole = {parameter("w", start.clone())}, first = {parameter("w", start.clone())};
  const auto uninterrupted = make_optimizer(whole, options), before = make_optimizer(first, options);
  const auto step = [&](Optimizer& optimizer, Parameter& p, std::size_t i) {
    p.gradient.copy_(gradients[i]);
    optimizer.step(1e-2);
  };
  for (std::size_t i = 0; i < 3; ++i) step(*uninterrupted, whole[0], i);
  for (std::size_t i = 0; i < 2; ++i) step(*before, first[0], i);

  std::map<std::string, std::vector<std::byte>, std::less<>> disk;
  for (const NamedBytes& bytes : before->state()) disk[bytes.name] = {bytes.bytes.begin(), bytes.bytes.end()};
  std::vector<Parameter> second = {parameter("w", first[0].master.clone())};
  const auto after = make_optimizer(second, options);
  after->restore(
      [&](std::string_view name, std::span<std::byte> destination) {
        std::ranges::copy(disk.find(name)->second, destination.begin());
      },
      2);
  step(*after, second[0], 2);
  EXPECT_TRUE(same_bits(second[0].master, whole[0].master));
}

TEST_F(AdamW, RestoredStateGoesOnToTheLastBit) {
  for (const OptimizerType type : {OptimizerType::adamw, OptimizerType::adamw_8bit, OptimizerType::adafactor}) {
    TrainOptions options = options_;
    options.optim = type;
    expect_the_same_after_a_restart(options);
  }
}

// Moments in 8 bits are off by up to 7 % of a value that is small in its block (a tenth of a decade's width); the
// update divides one by the root of the other.
TEST(AdamW8bit, FollowsThePaperAsFarAsEightBitsDo) {
  at::manual_seed(13);
  const TrainOptions options{.optim = OptimizerType::adamw_8bit, .adam_beta2 = 0.95, .weight_decay = 0.1};
  std::vector<Parameter> parameters = {parameter("matrix", at::randn({30, 41})),  // the last block is short
                                       parameter("norm", at::randn({17}), /*decays=*/false)};
  PlainAdamW matrix(parameters[0].master), norm(parameters[1].master);
  const auto optimizer = make_optimizer(parameters, options);
  constexpr double kRate = 1e-2;
  constexpr int kSteps = 20;
  const at::Tensor direction = at::randn({30, 41});
  for (int t = 1; t <= kSteps; ++t) {
    parameters[0].gradient.copy_(direction + 0.3 * at::randn({30, 41}));
    parameters[1].gradient.copy_(at::randn({17}));
    matrix.step(parameters[0].gradient, t, kRate, options, options.weight_decay);
    norm.step(parameters[1].gradient, t, kRate, options, 0);
    optimizer->step(kRate);
  }
  const at::Tensor off = (parameters[0].value.to(at::kDouble) - matrix.w).abs();
  EXPECT_LT(off.mean().item<double>(), 0.03 * kSteps * kRate);  // of the way that a weight can go
  EXPECT_LT(largest_difference(parameters[1].value, norm.w), kSteps * 4 * 8 * std::numeric_limits<float>::epsilon());
}

TEST(AdamW8bit, KeepsTwoBytesAValue) {
  std::vector<Parameter> parameters = {parameter("w", at::randn({512, 512}))};
  std::size_t bytes = 0;
  const auto optimizer = make_optimizer(parameters, {.optim = OptimizerType::adamw_8bit});
  for (const NamedBytes& tensor : optimizer->state()) bytes += tensor.bytes.size();
  EXPECT_LE(static_cast<double>(bytes), 2.1 * 512 * 512);
}

// To a whole tensor and its slices, that from 512 on the second.
void give(const at::Tensor& gradient, std::vector<Parameter>& whole, std::vector<Parameter>& slices) {
  whole[0].gradient.copy_(gradient);
  slices[0].gradient.copy_(gradient.narrow(0, 0, 512));
  slices[1].gradient.copy_(gradient.narrow(0, 512, gradient.size(0) - 512));
}

TEST(AdamW8bit, SlicesThatBeginWithABlockLearnTheSame) {
  at::manual_seed(17);
  const at::Tensor start = at::randn({1000}), gradient = at::randn({1000});
  std::vector<Parameter> whole = {parameter("w", start.clone())},
                         slices = {parameter("w@0", start.narrow(0, 0, 512).clone()),
                                   parameter("w@512", start.narrow(0, 512, 488).clone())};
  const TrainOptions options{.optim = OptimizerType::adamw_8bit};
  const auto one = make_optimizer(whole, options), two = make_optimizer(slices, options);
  for (int t = 0; t < 3; ++t) {
    give(gradient, whole, slices);
    one->step(1e-2);
    two->step(1e-2);
  }
  EXPECT_TRUE(same_bits(at::cat({slices[0].master, slices[1].master}), whole[0].master));
  std::vector<std::string> names;
  for (const NamedBytes& tensor : two->state()) names.push_back(tensor.name);
  EXPECT_THAT(names, testing::Contains("w@512.exp_avg_codes"));
  EXPECT_THAT(names, testing::Contains("w@2.exp_avg_largest"));
}

// Shazeer & Stern 2018, algorithms 4 and 5, in fp64; transformers' own is judge_methods.py's.
TEST(Adafactor, FollowsThePaper) {
  at::manual_seed(19);
  const TrainOptions options{.optim = OptimizerType::adafactor, .weight_decay = 0.1};
  std::vector<Parameter> parameters = {parameter("matrix", at::randn({33, 17})),
                                       parameter("norm", at::randn({17}), /*decays=*/false)};
  std::vector<at::Tensor> w;
  for (const Parameter& p : parameters) w.push_back(p.master.to(at::kDouble));
  at::Tensor row = at::zeros({33}, at::kDouble), column = at::zeros({17}, at::kDouble), whole = at::zeros_like(column);
  const auto optimizer = make_optimizer(parameters, options);
  constexpr double kRate = 1e-2;
  constexpr int kSteps = 20;
  const auto clipped = [](const at::Tensor& u) { return u / std::max(1.0, u.square().mean().sqrt().item<double>()); };
  for (int t = 1; t <= kSteps; ++t) {
    for (Parameter& p : parameters) p.gradient.copy_(at::randn(p.gradient.sizes()) * (t % 3 == 0 ? 10 : 1));
    const at::Tensor g = parameters[0].gradient.to(at::kDouble), g_norm = parameters[1].gradient.to(at::kDouble);
    const double beta = 1 - std::pow(t, -0.8);
    row = beta * row + (1 - beta) * g.square().mean(1);
    column = beta * column + (1 - beta) * g.square().mean(0);
    whole = beta * whole + (1 - beta) * g_norm.square();
    const at::Tensor v = row.unsqueeze(1) * column / row.mean();
    w[0] = w[0] * (1 - kRate * options.weight_decay) - kRate * clipped(g / v.sqrt());
    w[1] = w[1] - kRate * clipped(g_norm / whole.sqrt());
    optimizer->step(kRate);
  }
  const double tolerance = kSteps * 4 * 8 * std::numeric_limits<float>::epsilon();
  for (std::size_t i = 0; i < 2; ++i) EXPECT_LT(largest_difference(parameters[i].value, w[i]), tolerance);
  std::map<std::string, std::size_t> state;
  for (const NamedBytes& tensor : optimizer->state()) state[tensor.name] = tensor.bytes.size() / sizeof(float);
  EXPECT_EQ(state, (std::map<std::string, std::size_t>{
                       {"matrix.exp_avg_sq_row", 33}, {"matrix.exp_avg_sq_col", 17}, {"norm.exp_avg_sq", 17}}));
}

TEST(Adafactor, RowsWithoutGradientsStayWhereTheyAre) {
  std::vector<Parameter> parameters = {parameter("w", at::ones({4, 3}))};
  const auto optimizer = make_optimizer(parameters, {.optim = OptimizerType::adafactor});
  for (int t = 0; t < 3; ++t) {
    parameters[0].gradient[1].fill_(1);
    optimizer->step(1e-2);
  }
  EXPECT_EQ(parameters[0].value[0].min().item<float>(), 1);
  EXPECT_LT(parameters[0].value[1].max().item<float>(), 1);
  for (Parameter& p : parameters) p.gradient.zero_();
  optimizer->step(1e-2);
  EXPECT_TRUE(at::isfinite(parameters[0].value).all().item<bool>());
}

TEST(StochasticRound, IsOneOfTheNeighboursAndRightOnAverage) {
  at::manual_seed(23);
  constexpr std::int64_t kCount = 1 << 20;
  const at::Tensor exact = at::randn({kCount});
  at::Tensor value = at::empty({kCount}, at::kBFloat16);
  stochastic_round_(value, exact, 0x123456789abcdefull);
  const at::Tensor step = at::exp2(at::floor(at::log2(exact.abs()))) / 128, off = (value.to(at::kFloat) - exact) / step;
  EXPECT_LT(off.abs().max().item<float>(), 1);
  // the error of one is at most uniform within +-1: its mean's deviation is sqrt(1/3 / n), here five of them
  EXPECT_NEAR(off.to(at::kDouble).mean().item<double>(), 0, 5 * std::sqrt(1.0 / 3 / kCount));
  // an eighth of the way up: every eighth goes up, neighbours in memory independently
  at::Tensor eighth = at::full({kCount}, 1 + 1.0 / 1024);
  stochastic_round_(value, eighth, 7);
  const at::Tensor up = (value.to(at::kDouble) > 1).to(at::kDouble);
  EXPECT_NEAR(up.mean().item<double>(), 0.125, 5 * std::sqrt(0.125 * 0.875 / kCount));
  EXPECT_NEAR((up.narrow(0, 1, kCount - 1) * up.narrow(0, 0, kCount - 1)).mean().item<double>(), 1.0 / 64,
              5 * std::sqrt(1.0 / 64 / kCount));
  const float infinity = std::numeric_limits<float>::infinity();
  const at::Tensor special = at::tensor({0.0f, -0.0f, 1.0f, -2.5f, infinity, -infinity, std::nanf("")});
  at::Tensor same = at::empty({7}, at::kBFloat16);
  stochastic_round_(same, special, 5);
  EXPECT_TRUE(at::equal(same.narrow(0, 0, 6).to(at::kFloat), special.narrow(0, 0, 6)));
  EXPECT_TRUE(std::isnan(same[6].item<float>()));
}

TEST(StochasticRound, SmallUpdatesAddUpWithoutAMaster) {
  for (const OptimizerType type : {OptimizerType::adamw, OptimizerType::adamw_8bit, OptimizerType::adafactor}) {
    at::Tensor whole = at::ones({64, 64}, at::kBFloat16);
    std::vector<Parameter> parameters = {
        {.name = "w", .value = whole, .master = whole, .gradient = at::zeros({64, 64})}};
    const auto optimizer = make_optimizer(parameters, {.optim = type, .bf16_stochastic_round = true});
    for (int t = 0; t < 100; ++t) {
      parameters[0].gradient.fill_(1);
      optimizer->step(1e-4);  // far below bf16's resolution under 1, which is 2^-8
    }
    // each of 4096 values takes 100 steps of mean 1e-4, 2^-8 now and then
    EXPECT_NEAR(whole.to(at::kDouble).mean().item<double>(), 1 - 100 * 1e-4, 5 * std::sqrt(100 * 1e-4 / 256 / 4096));
    EXPECT_TRUE(parameters[0].master.is_same(parameters[0].value));
  }
}

TEST(StochasticRound, SlicesAndRestartsRoundAsTheWholeDoes) {
  at::manual_seed(29);
  const at::Tensor start = at::randn({1000}).to(at::kBFloat16), gradient = at::randn({1000});
  const auto of = [&](const char* name, std::int64_t from, std::int64_t count) {
    const at::Tensor value = start.narrow(0, from, count).clone();
    return Parameter{.name = name, .value = value, .master = value, .gradient = at::zeros({count})};
  };
  std::vector<Parameter> whole = {of("w", 0, 1000)}, slices = {of("w@0", 0, 512), of("w@512", 512, 488)};
  const TrainOptions options{.optim = OptimizerType::sgd, .bf16_stochastic_round = true};
  const auto one = make_optimizer(whole, options);
  auto two = make_optimizer(slices, options);
  for (int t = 0; t < 3; ++t) {
    give(gradient, whole, slices);
    one->step(1e-2);
    two->step(1e-2);
    two = make_optimizer(slices, options);
    two->restore([](std::string_view, std::span<std::byte>) {}, t + 1);
  }
  EXPECT_TRUE(at::equal(at::cat({slices[0].value, slices[1].value}), whole[0].value));
  EXPECT_FALSE(at::equal(whole[0].value, (start.to(at::kFloat) - gradient * 3e-2).to(at::kBFloat16)));
}

TEST(Optimizers, MultiplyTheirRateByTheParametersScale) {
  for (const OptimizerType type :
       {OptimizerType::adamw, OptimizerType::adamw_8bit, OptimizerType::adafactor, OptimizerType::sgd}) {
    std::vector<Parameter> parameters = {parameter("a", at::ones({4})), parameter("b", at::ones({4}))};
    parameters[1].rate_scale = 16;
    const auto optimizer = make_optimizer(parameters, {.optim = type});
    for (Parameter& p : parameters) p.gradient.fill_(1);
    optimizer->step(1e-3);
    const double slow = 1 - parameters[0].value[0].item<double>(), fast = 1 - parameters[1].value[0].item<double>();
    EXPECT_NEAR(fast, 16 * slow, 1e-5) << static_cast<int>(type);
  }
}

TEST(Sgd, SubtractsRateTimesGradientAndDecay) {
  std::vector<Parameter> parameters = {parameter("w", at::full({2}, 2.0f)),
                                       parameter("norm", at::full({2}, 2.0f), false)};
  const auto optimizer = make_optimizer(parameters, {.optim = OptimizerType::sgd, .weight_decay = 0.5});
  for (Parameter& p : parameters) p.gradient.fill_(1);
  optimizer->step(0.25);
  EXPECT_EQ(parameters[0].value[0].item<float>(), 2.0f - 0.25f * (1.0f + 0.5f * 2.0f));
  EXPECT_EQ(parameters[1].value[0].item<float>(), 2.0f - 0.25f);
  EXPECT_TRUE(optimizer->state().empty());
}

TEST(Clip, ReturnsTheNormBeforeAndScalesAllGradientsAlike) {
  std::vector<Parameter> parameters = {parameter("a", at::zeros({2})), parameter("b", at::zeros({1}))};
  parameters[0].gradient.copy_(at::tensor({3.0f, 0.0f}));
  parameters[1].gradient.fill_(4);
  EXPECT_DOUBLE_EQ(clip_gradients(parameters, 1.0), 5.0);
  // torch.nn.utils.clip_grad_norm_: max_norm / (norm + 1e-6)
  EXPECT_NEAR(parameters[0].gradient[0].item<float>(), 3.0 / (5.0 + 1e-6), 1e-7);
  EXPECT_NEAR(parameters[1].gradient[0].item<float>(), 4.0 / (5.0 + 1e-6), 1e-7);
}

TEST(Clip, LeavesSmallGradientsAndZeroMeansOff) {
  std::vector<Parameter> parameters = {parameter("a", at::zeros({1}))};
  for (const double max_norm : {10.0, 0.0}) {
    parameters[0].gradient.fill_(4);
    EXPECT_DOUBLE_EQ(clip_gradients(parameters, max_norm), 4.0);
    EXPECT_EQ(parameters[0].gradient.item<float>(), 4.0f);
  }
}

TEST(Clip, NormIsThatOfAnExactSumAndTheSameEveryTime) {
  at::manual_seed(3);
  std::vector<Parameter> parameters = {parameter("a", at::zeros({1023, 517})), parameter("b", at::zeros({7}))};
  double squares = 0;
  for (Parameter& p : parameters) {
    p.gradient.copy_(at::randn(p.gradient.sizes()));
    squares += p.gradient.to(at::kDouble).square().sum().item<double>();
  }
  const double norm = clip_gradients(parameters, 0);
  EXPECT_NEAR(norm, std::sqrt(squares), 1e-5 * norm);
  EXPECT_EQ(clip_gradients(parameters, 0), norm);
}

TEST(Clip, NonFiniteGradientsAreNamedAndNotSpread) {
  std::vector<Parameter> parameters = {parameter("good", at::zeros({2})), parameter("bad", at::zeros({2}))};
  parameters[0].gradient.fill_(3);
  EXPECT_EQ(first_non_finite(parameters), "");
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    parameters[1].gradient[1] = value;
    EXPECT_FALSE(std::isfinite(clip_gradients(parameters, 1.0)));
    EXPECT_EQ(parameters[0].gradient[0].item<float>(), 3);
    EXPECT_EQ(first_non_finite(parameters), "bad");
  }
  // a bad gradient spreads to all layers before its own: the last one of the model is where it began
  parameters.push_back(parameter("later", at::zeros({2})));
  parameters[2].gradient.fill_(std::numeric_limits<float>::infinity());
  EXPECT_EQ(first_non_finite(parameters), "later");
}

}  // namespace
}  // namespace tune
