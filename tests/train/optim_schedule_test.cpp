#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>

#include "train/optim/schedule.h"

namespace tune {
namespace {

// transformers.optimization, the lambda of each get_*_schedule* with its own names, n = num_training_steps, w =
// num_warmup_steps, s = current_step; a LambdaLR trains step s with base * lambda(s).
double linear(double s, double n, double w) {
  return s < w ? s / std::max(1.0, w) : std::max(0.0, (n - s) / std::max(1.0, n - w));
}
double cosine(double s, double n, double w) {
  if (s < w) return s / std::max(1.0, w);
  const double progress = (s - w) / std::max(1.0, n - w);
  return std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * 0.5 * 2.0 * progress)));  // num_cycles 0.5
}
double constant(double s, double, double w) { return s < w ? s / std::max(1.0, w) : 1.0; }
// get_wsd_schedule(num_decay_steps = d, decay_type = "linear", min_lr_ratio = 0)
double wsd(double s, double n, double w, double d) {
  if (s < w) return s / std::max(1.0, w);
  if (s < n - d) return 1.0;
  return s < n ? 1.0 - (s - (n - d)) / d : 0.0;
}

void expect_schedule(const TrainOptions& options, std::int64_t total, const std::function<double(double)>& lambda) {
  for (std::int64_t step = 0; step < total; ++step)
    ASSERT_NEAR(learning_rate_at(options, step, total), options.learning_rate * lambda(static_cast<double>(step)),
                1e-15)
        << "step " << step << " of " << total;
}

class Schedule : public ::testing::TestWithParam<std::int64_t> {  // warm-up steps
 protected:
  TrainOptions with(Scheduler type) const {
    return {.learning_rate = 3e-4, .lr_scheduler_type = type, .warmup_steps = GetParam(), .decay_ratio = 0.2};
  }
  static constexpr std::int64_t kTotal = 97;
  const double w_ = static_cast<double>(GetParam());
};

TEST_P(Schedule, Constant) {
  expect_schedule(with(Scheduler::constant), kTotal, [&](double s) { return constant(s, kTotal, w_); });
}
TEST_P(Schedule, Linear) {
  expect_schedule(with(Scheduler::linear), kTotal, [&](double s) { return linear(s, kTotal, w_); });
}
TEST_P(Schedule, Cosine) {
  expect_schedule(with(Scheduler::cosine), kTotal, [&](double s) { return cosine(s, kTotal, w_); });
}
TEST_P(Schedule, WarmupStableDecay) {
  expect_schedule(with(Scheduler::wsd), kTotal, [&](double s) { return wsd(s, kTotal, w_, std::floor(0.2 * kTotal)); });
}

INSTANTIATE_TEST_SUITE_P(Warmup, Schedule, ::testing::Values(0, 1, 10, 97));

TEST(WarmUp, BeginsAtZeroWithWarmupAndAtTheFullRateWithout) {
  EXPECT_EQ(learning_rate_at({.learning_rate = 1e-3, .warmup_steps = 5}, 0, 50), 0.0);
  EXPECT_EQ(learning_rate_at({.learning_rate = 1e-3}, 0, 50), 1e-3);
}

TEST(WarmUp, RatioIsRoundedUpAndStepsWin) {
  EXPECT_EQ(warmup_steps({.warmup_ratio = 0.1}, 101), 11);
  EXPECT_EQ(warmup_steps({.warmup_ratio = 0.1}, 100), 10);
  EXPECT_EQ(warmup_steps({.warmup_ratio = 0.1, .warmup_steps = 3}, 100), 3);
  EXPECT_EQ(warmup_steps({}, 100), 0);
}

TEST(WarmUp, DoesNotStarveARunOfOneStep) {
  for (const Scheduler type : {Scheduler::constant, Scheduler::linear, Scheduler::cosine, Scheduler::wsd})
    EXPECT_EQ(learning_rate_at({.learning_rate = 1e-3, .lr_scheduler_type = type}, 0, 1), 1e-3);
}

}  // namespace
}  // namespace tune
