#include "train/model/random_stream.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

namespace tune {
namespace {

TEST(Neftune, NoiseIsAsLargeAsItsDocumentAllows) {
  constexpr double kAlpha = 5;
  constexpr std::int64_t kHidden = 64;
  at::Tensor x = at::zeros({500, kHidden});
  add_neftune_noise_(x, {0, 100, 500}, kAlpha, 3);
  for (const auto& [first, length] : {std::pair<std::int64_t, std::int64_t>{0, 100}, {100, 400}}) {
    const at::Tensor noise = x.narrow(0, first, length);
    const double bound = kAlpha / std::sqrt(static_cast<double>(length * kHidden));
    EXPECT_LE(noise.abs().max().item<double>(), bound * (1 + 1e-6));
    // a uniform number's deviation is bound / sqrt(3), that of a mean of n of them less by sqrt(n)
    const double deviation = bound / std::sqrt(3.0), count = static_cast<double>(length * kHidden);
    EXPECT_NEAR(noise.std().item<double>(), deviation, 0.02 * deviation);
    EXPECT_NEAR(noise.mean().item<double>(), 0, 5 * deviation / std::sqrt(count));
  }
}

TEST(Neftune, DependsOnTheSeedAlone) {
  const auto noise = [](std::uint64_t seed) {
    at::Tensor x = at::zeros({20, 8});
    add_neftune_noise_(x, {0, 20}, 5, seed);
    return x;
  };
  EXPECT_TRUE(noise(1).equal(noise(1)));
  EXPECT_FALSE(noise(1).equal(noise(2)));
}

}  // namespace
}  // namespace tune
