#include "train/objectives/preference.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tune {
namespace {

constexpr std::int64_t kChosenTokens = 7, kRejectedTokens = 4;
constexpr PairLogProbabilities kPolicy{-9.3, -8.1}, kReference{-10.0, -6.5};

double loss_at(const PreferenceOptions& options, double chosen, double rejected) {
  return pair_loss(options, {chosen, rejected}, kReference, kChosenTokens, kRejectedTokens).loss;
}

TEST(PairLoss, DerivativesAreThoseOfTheLoss) {
  for (const PreferenceOptions& options :
       {PreferenceOptions{}, PreferenceOptions{.beta = 0.5, .label_smoothing = 0.2},
        PreferenceOptions{.loss_type = PreferenceLoss::ipo}, PreferenceOptions{.loss_type = PreferenceLoss::hinge},
        PreferenceOptions{.loss_type = PreferenceLoss::orpo, .beta = 0.3},
        PreferenceOptions{.loss_type = PreferenceLoss::simpo, .beta = 2, .label_smoothing = 0.1}}) {
    const PairLoss loss = pair_loss(options, kPolicy, kReference, kChosenTokens, kRejectedTokens);
    constexpr double kStep = 1e-5;
    const auto slope = [&](double chosen, double rejected) {
      return (loss_at(options, kPolicy.chosen + chosen, kPolicy.rejected + rejected) -
              loss_at(options, kPolicy.chosen - chosen, kPolicy.rejected - rejected)) /
             (2 * kStep);
    };
    EXPECT_NEAR(loss.by_chosen, slope(kStep, 0), 1e-7) << static_cast<int>(options.loss_type);
    EXPECT_NEAR(loss.by_rejected, slope(0, kStep), 1e-7) << static_cast<int>(options.loss_type);
  }
}

TEST(PairLoss, DpoOfEqualModelsIsLogTwo) {
  const PairLoss loss = pair_loss({}, kReference, kReference, kChosenTokens, kRejectedTokens);
  EXPECT_NEAR(loss.loss, std::log(2.0), 1e-12);
  EXPECT_EQ(loss.chosen_reward, 0);
  EXPECT_NEAR(loss.by_chosen, -0.05, 1e-12);  // beta / 2
}

TEST(PairLoss, IsFiniteFarFromTheReference) {
  for (const double far : {-2000.0, 2000.0}) {
    const PairLoss loss = pair_loss({}, {far, -far}, {0, 0}, kChosenTokens, kRejectedTokens);
    EXPECT_TRUE(std::isfinite(loss.loss) && std::isfinite(loss.by_chosen)) << far;
  }
}

TEST(PairLoss, HingeIsSilentBehindItsMargin) {
  const PairLoss loss = pair_loss({.loss_type = PreferenceLoss::hinge}, {0, -100}, {0, 0}, 1, 1);
  EXPECT_EQ(loss.loss, 0);
  EXPECT_EQ(loss.by_chosen, 0);
}

}  // namespace
}  // namespace tune
