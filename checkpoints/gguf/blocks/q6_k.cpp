#include <algorithm>
#include <cstring>

#include "checkpoints/gguf/blocks/fit.h"
#include "checkpoints/gguf/blocks/formats.h"

namespace tune {

// 210 bytes of 16 sub-blocks of 16: 128 bytes of low halves, 64 of high pairs of bits, 16 signed bytes s, half d;
// value = d s (q - 32). Of each half of 128 values, runs a, b, c, e of 32: byte i holds the low halves of a and c, byte
// 32 + i those of b and e, and one byte the high bits of all four.

namespace {

constexpr std::size_t kGroup = 16, kHigh = 128, kScales = 192, kScale = 208, kBytes = 210;

void write_codes(const std::int32_t (&codes)[kSuperBlockValues], std::byte* block) {
  for (std::size_t half = 0; half < 2; ++half) {
    for (std::size_t i = 0; i < 32; ++i) {
      const std::int32_t* q = codes + 128 * half + i;
      block[64 * half + i] = static_cast<std::byte>((q[0] & 15) | (q[64] & 15) << 4);
      block[64 * half + 32 + i] = static_cast<std::byte>((q[32] & 15) | (q[96] & 15) << 4);
      block[kHigh + 32 * half + i] =
          static_cast<std::byte>(q[0] >> 4 | q[32] >> 4 << 2 | q[64] >> 4 << 4 | q[96] >> 4 << 6);
    }
  }
}

TUNE_INLINE void encode(const float* values, const float (&scale)[kLanes], std::int32_t (&codes)[kSuperBlockValues],
                        std::byte* block) {
  const float largest =
      *std::max_element(scale, scale + kLanes, [](float a, float b) { return std::fabs(a) < std::fabs(b); });
  if (std::fabs(largest) < kNothing) {
    std::memset(block, 0, kBytes);
    return;
  }
  const float inverse = -128.0f / largest;
  put_half(1 / inverse, block + kScale);
  const float d = half_at(block + kScale);
  for (std::size_t j = 0; j < kLanes; ++j) {
    const auto stored = static_cast<std::int8_t>(std::min(127, nearest_int(inverse * scale[j])));
    block[kScales + j] = static_cast<std::byte>(stored);
    const float step = d * static_cast<float>(stored);
    if (step == 0) continue;
    for (std::size_t i = kGroup * j; i < kGroup * (j + 1); ++i)
      codes[i] = clamped(nearest_int(values[i] / step), -32, 31) + 32;
  }
  write_codes(codes, block);
}

}  // namespace

void dequantize_q6_k(const std::byte* block, float* values) {
  const float d = half_at(block + kScale);
  for (std::size_t i = 0; i < kSuperBlockValues; ++i) {
    const std::size_t half = i / 128, run = i % 128 / 32, at = i % 32;
    const auto low = static_cast<int>(block[64 * half + run % 2 * 32 + at]) >> (run / 2 * 4) & 15;
    const auto high = static_cast<int>(block[kHigh + 32 * half + at]) >> (2 * run) & 3;
    const auto scale = static_cast<float>(static_cast<std::int8_t>(block[kScales + i / kGroup]));
    values[i] = d * scale * static_cast<float>((low | high << 4) - 32);
  }
}

TUNE_CPU_CLONES void quantize_q6_k(const Rows& rows, std::byte* blocks) {
  static_assert(kLanes * kGroup == kSuperBlockValues);
  const std::size_t in_row = rows.columns / kSuperBlockValues;
  for (std::size_t n = 0; n < rows.rows * in_row; ++n) {
    const float* values = rows.values + n * kSuperBlockValues;
    Lanes<float, kGroup> x, weight;
    float scale[kLanes];
    Lanes<std::int32_t, kGroup> found;
    std::int32_t codes[kSuperBlockValues];
    for (std::size_t i = 0; i < kSuperBlockValues; ++i) {
      x[i % kGroup][i / kGroup] = values[i];
      weight[i % kGroup][i / kGroup] =
          rows.importance != nullptr ? rows.importance[n % in_row * kSuperBlockValues + i] : values[i] * values[i];
    }
    fit_scale<kGroup>(x, weight, 32, found, scale);
    for (std::size_t i = 0; i < kSuperBlockValues; ++i) codes[i] = found[i % kGroup][i / kGroup];
    encode(values, scale, codes, blocks + n * kBytes);
  }
}

}  // namespace tune
