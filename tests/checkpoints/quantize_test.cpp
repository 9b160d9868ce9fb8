#include <gmock/gmock.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>

#include "checkpoints/quantize/dynamic_map.h"
#include "checkpoints/quantize/nf4.h"
#include "checkpoints/quantize/nf4_weights.h"

namespace tune {
namespace {

std::vector<float> normal_values(std::int64_t count) {
  std::mt19937 engine(7);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(engine);
  return values;
}

std::vector<std::byte> quantized(std::span<const float> values) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(Nf4Layout(std::ssize(values)).bytes));
  Nf4Quantizer quantizer(std::ssize(values), bytes);
  quantizer.add(values);
  quantizer.finish();
  return bytes;
}

template <typename T>
std::vector<T> dequantized(std::int64_t values, const std::vector<std::byte>& bytes, std::int64_t first,
                           std::int64_t count) {
  std::vector<T> result(static_cast<std::size_t>(count));
  dequantize_nf4(Nf4Layout(values), bytes.data(), first, count, sizeof(T) == 4 ? Dtype::fp32 : Dtype::bf16,
                 reinterpret_cast<std::byte*>(result.data()));
  return result;
}

TEST(DynamicMap, IsSortedAndReachesOne) {
  for (const bool is_signed : {true, false}) {
    const std::array<float, 256>& map = dynamic_map(is_signed).values;
    EXPECT_TRUE(std::is_sorted(map.begin(), map.end()));
    EXPECT_EQ(map.back(), 1.0f);
    EXPECT_EQ(std::count(map.begin(), map.end(), 0.0f), 1);
  }
  EXPECT_LT(dynamic_map(true).values.front(), -0.99f);
  EXPECT_EQ(dynamic_map(false).values.front(), 0.0f);
}

// As bitsandbytes defines it: the code is the number of midpoints below x.
TEST(DynamicMap, NearestIsNearest) {
  std::mt19937 engine(3);
  for (const bool is_signed : {true, false}) {
    const DynamicMap& map = dynamic_map(is_signed);
    const auto expect_nearest = [&](float x) {
      const auto below = std::lower_bound(map.midpoints.begin(), map.midpoints.end(), x) - map.midpoints.begin();
      ASSERT_EQ(map.nearest(x), below) << x;
    };
    for (const float value : map.values) expect_nearest(value);
    for (std::size_t i = 0; i + 1 < map.midpoints.size(); ++i)
      for (const float x :
           {map.midpoints[i], std::nextafter(map.midpoints[i], -2.0f), std::nextafter(map.midpoints[i], 2.0f)})
        expect_nearest(x);
    std::uniform_real_distribution<float> exponent(-9, 0);
    for (int i = 0; i < 100000; ++i) {
      const float x = std::pow(10.0f, exponent(engine));
      expect_nearest(x);
      if (is_signed) expect_nearest(-x);
    }
    expect_nearest(0.0f);
    expect_nearest(1e-30f);
  }
}

TEST(Nf4, ValuesAreTheNearestOfTheirBlock) {
  constexpr std::int64_t kCount = 3 * 64 + 20;  // the last block is short
  const std::vector<float> values = normal_values(kCount);
  const std::vector<float> back = dequantized<float>(kCount, quantized(values), 0, kCount);
  // half the largest gap between codes of the block's largest magnitude, and 2 % of that for the scale's own 8 bits
  for (std::size_t i = 0; i < values.size(); ++i) {
    float largest = 0;
    for (std::size_t k = i / 64 * 64; k < std::min(values.size(), (i / 64 + 1) * 64); ++k)
      largest = std::max(largest, std::fabs(values[k]));
    EXPECT_LE(std::fabs(back[i] - values[i]), (0.1520f + 0.02f) * largest) << i;
  }
}

TEST(Nf4, TakesFourPointOneBitsAWeight) {
  const std::int64_t values = 4096 * 4096;
  EXPECT_NEAR(8.0 * static_cast<double>(Nf4Layout(values).bytes) / static_cast<double>(values),
              4 + 8.0 / 64 + 32.0 / (64 * 256), 1e-3);
}

TEST(Nf4, PiecesGiveTheSameBytes) {
  const std::vector<float> values = normal_values(1000);
  std::vector<std::byte> bytes(static_cast<std::size_t>(Nf4Layout(1000).bytes));
  Nf4Quantizer quantizer(1000, bytes);
  for (const auto& [first, count] : {std::pair<std::size_t, std::size_t>{0, 64}, {64, 640}, {704, 296}})
    quantizer.add(std::span(values).subspan(first, count));
  quantizer.finish();
  EXPECT_EQ(bytes, quantized(values));
}

TEST(Nf4, AnyPartIsReadAlone) {
  constexpr std::int64_t kCount = 300;
  const std::vector<std::byte> bytes = quantized(normal_values(kCount));
  const std::vector<float> all = dequantized<float>(kCount, bytes, 0, kCount);
  for (const std::int64_t first : {0, 1, 63, 64, 65, 130})
    for (const std::int64_t count : {0, 1, 2, 63, 64, 129, 170})
      EXPECT_THAT(dequantized<float>(kCount, bytes, first, count),
                  testing::ElementsAreArray(all.begin() + first, all.begin() + first + count));
}

TEST(Nf4, Bf16IsTheRoundedValue) {
  constexpr std::int64_t kCount = 64 * 7 + 5;
  const std::vector<std::byte> bytes = quantized(normal_values(kCount));
  const std::vector<float> wide = dequantized<float>(kCount, bytes, 0, kCount);
  const std::vector<std::uint16_t> narrow = dequantized<std::uint16_t>(kCount, bytes, 0, kCount);
  for (std::size_t i = 0; i < wide.size(); ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(wide[i]);
    EXPECT_EQ(narrow[i], (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16) << i;
  }
}

TEST(Nf4, ZerosStayZeros) {
  std::vector<float> values = normal_values(64 * 4);
  std::fill(values.begin(), values.begin() + 64, 0.0f);
  const std::vector<float> back = dequantized<float>(256, quantized(values), 0, 256);
  EXPECT_THAT(std::vector<float>(back.begin(), back.begin() + 64), testing::Each(0.0f));
  const std::vector<float> nothing(200, 0.0f);
  EXPECT_THAT(dequantized<float>(200, quantized(nothing), 0, 200), testing::Each(0.0f));
}

TEST(Nf4, RoutersNormsAndTablesStayAsTheyAre) {
  EXPECT_TRUE(is_kept_in_nf4({"model.layers.3.self_attn.q_proj.weight", "BF16", {8, 8}}));
  EXPECT_TRUE(is_kept_in_nf4({"model.layers.0.block_sparse_moe.experts.7.w2.weight", "BF16", {8, 8}}));
  EXPECT_FALSE(is_kept_in_nf4({"model.layers.0.block_sparse_moe.gate.weight", "BF16", {8, 8}}));
  EXPECT_FALSE(is_kept_in_nf4({"model.layers.0.input_layernorm.weight", "BF16", {8}}));
  EXPECT_FALSE(is_kept_in_nf4({"model.embed_tokens.weight", "BF16", {8, 8}}));
  EXPECT_FALSE(is_kept_in_nf4({"lm_head.weight", "BF16", {8, 8}}));
}

}  // namespace
}  // namespace tune
