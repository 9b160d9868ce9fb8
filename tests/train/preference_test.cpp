#include "train/objectives/preference.h"

#include "train/objectives/kto.h"

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

TEST(KtoLoss, DerivativeIsThatOfTheLoss) {
  const PreferenceOptions options{.beta = 0.3, .desirable_weight = 2, .undesirable_weight = 0.5};
  constexpr double kStep = 1e-5, kKl = 0.7;
  for (const bool good : {true, false})
    for (const double ratio : {-4.0, 0.2, 3.0}) {
      const double above = kto_loss(options, ratio + kStep, kKl, good).loss,
                   below = kto_loss(options, ratio - kStep, kKl, good).loss;
      EXPECT_NEAR(kto_loss(options, ratio, kKl, good).by_answer, (above - below) / (2 * kStep), 1e-7) << good << ratio;
    }
}

TEST(KtoLoss, OfEqualModelsIsHalfTheWeight) {
  const PreferenceOptions options{.desirable_weight = 2, .undesirable_weight = 0.5};
  EXPECT_NEAR(kto_loss(options, 0, 0, true).loss, 1, 1e-12);
  EXPECT_NEAR(kto_loss(options, 0, 0, false).loss, 0.25, 1e-12);
  for (const double far : {-1e5, 1e5}) EXPECT_TRUE(std::isfinite(kto_loss(options, far, 0, true).by_answer)) << far;
}

TEST(KtoLoss, KlIsNeverBelowZeroAndHidesNothing) {
  EXPECT_EQ(kl_estimate(-3, 2), 0);
  EXPECT_EQ(kl_estimate(3, 2), 1.5);
  EXPECT_TRUE(std::isnan(kl_estimate(std::nan(""), 2)));
}

}  // namespace
}  // namespace tune
