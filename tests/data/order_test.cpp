#include "data/order.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "data/mixing.h"

namespace tune {
namespace {

using ::testing::ElementsAre;

std::vector<std::int64_t> sorted(std::vector<std::int64_t> values) {
  std::sort(values.begin(), values.end());
  return values;
}

std::vector<std::int64_t> first(std::int64_t n) {
  std::vector<std::int64_t> values(static_cast<std::size_t>(n));
  std::iota(values.begin(), values.end(), 0);
  return values;
}

TEST(Order, HoldsEveryIndexOnce) {
  for (const std::int64_t n : {0, 1, 2, 3, 1000}) EXPECT_EQ(sorted(permutation(42, 3, n)), first(n));
}

TEST(Order, DependsOnSeedAndEpochOnly) {
  EXPECT_EQ(permutation(42, 1, 100), permutation(42, 1, 100));
  EXPECT_NE(permutation(42, 1, 100), permutation(42, 2, 100));
  EXPECT_NE(permutation(42, 1, 100), permutation(43, 1, 100));
  EXPECT_NE(permutation(42, 1, 100), permutation(41, 2, 100));
}

// A run can only be continued by a later version when the order stays what it was. (Values: the definition, in Python.)
TEST(Order, IsTheSameForEver) { EXPECT_THAT(permutation(42, 0, 8), ElementsAre(4, 2, 5, 1, 7, 0, 6, 3)); }

// Each of the 24 orders of 4 comes up 1000 times of 24,000; 23 degrees of freedom, chi^2 < 49.7 with p = 0.999.
TEST(Order, IsUniform) {
  std::map<std::vector<std::int64_t>, int> seen;
  for (std::uint64_t epoch = 0; epoch < 24000; ++epoch) ++seen[permutation(1, epoch, 4)];
  ASSERT_EQ(seen.size(), 24U);
  double chi2 = 0;
  for (const auto& [order, count] : seen) chi2 += (count - 1000.0) * (count - 1000.0) / 1000.0;
  EXPECT_LT(chi2, 49.7);
}

TEST(Mixing, TakesEveryRowOnceAtWeightOne) {
  const std::vector<MixedSource> sources = {{{0, 1, 2}, 1.0}, {{3, 4}, 1.0}};
  for (const std::int64_t epoch : {0, 1, 7}) EXPECT_EQ(sorted(rows_of_epoch(sources, 42, epoch)), first(5));
}

TEST(Mixing, TakesAnotherHalfEachEpochAtWeightOneHalf) {
  const std::vector<MixedSource> sources = {{first(100), 0.5}};
  std::vector<std::int64_t> both = rows_of_epoch(sources, 42, 4);
  EXPECT_EQ(both.size(), 50U);
  const auto next = rows_of_epoch(sources, 42, 5);
  both.insert(both.end(), next.begin(), next.end());
  EXPECT_EQ(sorted(both), first(100));
  EXPECT_NE(sorted(rows_of_epoch(sources, 42, 4)), sorted(rows_of_epoch(sources, 43, 4)));
}

TEST(Mixing, TakesRowsTwiceAtWeightTwo) {
  EXPECT_THAT(sorted(rows_of_epoch({{{5, 6}, 2.0}}, 42, 3)), ElementsAre(5, 5, 6, 6));
}

TEST(Mixing, MayTakeNothing) { EXPECT_TRUE(rows_of_epoch({{{5, 6}, 0.0}, {{}, 1.0}}, 42, 0).empty()); }

TEST(SplitMix64, IsUniformAndTheSameEverywhere) {
  SplitMix64 random(42, 7);
  std::vector<int> counts(5);
  double sum = 0;
  for (int i = 0; i < 10000; ++i) {
    ++counts[random.below(5)];
    const double share = random.share();
    ASSERT_TRUE(share >= 0 && share < 1);
    sum += share;
  }
  for (const int count : counts) EXPECT_NEAR(count, 2000, 200);
  EXPECT_NEAR(sum / 10000, 0.5, 0.02);
  EXPECT_NE(SplitMix64(42, 7).next(), SplitMix64(42, 8).next());
  EXPECT_NE(SplitMix64(42, 7).next(), SplitMix64(43, 7).next());
}

}  // namespace
}  // namespace tune
