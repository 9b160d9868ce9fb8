#pragma once
#include <algorithm>
#include <array>
#include <cstring>

#include "checkpoints/gguf/blocks/fit.h"
#include "checkpoints/gguf/blocks/formats.h"

namespace tune {

// What Q4_K and Q5_K share. 256 values are 8 sub-blocks of 32; value = d s q - m t, with half precision d, m and whole
// numbers s, t of 6 bits a sub-block. A block begins: half d, half m, 12 bytes of s and t.

inline constexpr std::size_t kSubBlocks = 8, kSuperBlockHead = 16;

/// s and t of a sub-block.
struct ScaleAndMinimum {
  int scale, minimum;
};

/// 12 bytes: s and t of the first four sub-blocks in the low 6 bits of bytes 0-3 and 4-7; of the others, the low halves
/// in bytes 8-11 and the high 2 bits above those of the first four.
inline ScaleAndMinimum unpack(const std::byte* packed, std::size_t j) {
  const auto at = [&](std::size_t i) { return static_cast<int>(packed[i]); };
  if (j < 4) return {at(j) & 63, at(j + 4) & 63};
  return {(at(j + 4) & 15) | (at(j - 4) >> 6 << 4), (at(j + 4) >> 4) | (at(j) >> 6 << 4)};
}

inline void pack(std::size_t j, ScaleAndMinimum pair, std::byte* packed) {
  if (j < 4) {
    packed[j] = static_cast<std::byte>(pair.scale);
    packed[j + 4] = static_cast<std::byte>(pair.minimum);
    return;
  }
  packed[j + 4] = static_cast<std::byte>((pair.scale & 15) | (pair.minimum & 15) << 4);
  packed[j - 4] |= static_cast<std::byte>(pair.scale >> 4 << 6);
  packed[j] |= static_cast<std::byte>(pair.minimum >> 4 << 6);
}

/// Eight numbers >= 0 ~ scale code, codes 0 to 63, with the least weighted squared error that ggml's search finds.
inline float fit_six_bits(const float* x, const float* weight, std::array<std::uint8_t, kSubBlocks>& codes) {
  const float largest = std::max(0.0f, *std::max_element(x, x + kSubBlocks));
  codes.fill(0);
  if (largest < kNothing) return 0;
  float inverse = 63 / largest, error = 0;
  for (std::size_t i = 0; i < kSubBlocks; ++i) {
    const float difference =
        x[i] - 1 / inverse * static_cast<float>(static_cast<std::uint8_t>(nearest_int(inverse * x[i])));
    error += weight[i] * difference * difference;
  }
  for (int t = -4; t <= 4; ++t) {
    if (t == 0) continue;
    const float this_inverse = (0.1f * static_cast<float>(t) + 63) / largest, this_scale = 1 / this_inverse;
    float this_error = 0;
    for (std::size_t i = 0; i < kSubBlocks; ++i) {
      const auto code = static_cast<float>(std::min(63, nearest_int(this_inverse * x[i])));
      const float difference = x[i] - this_scale * code;
      this_error += weight[i] * difference * difference;
    }
    if (this_error < error) error = this_error, inverse = this_inverse;
  }
  float products = 0, squares = 0;
  for (std::size_t i = 0; i < kSubBlocks; ++i) {
    const int code = std::min(63, nearest_int(inverse * x[i]));
    codes[i] = static_cast<std::uint8_t>(code);
    products += weight[i] * x[i] * static_cast<float>(code);
    squares += weight[i] * static_cast<float>(code) * static_cast<float>(code);
  }
  for (int round = 0; round < 5; ++round) {
    bool changed = false;
    for (std::size_t i = 0; i < kSubBlocks; ++i) {
      const auto code = static_cast<float>(codes[i]);
      float other_products = products - weight[i] * x[i] * code;
      float other_squares = squares - weight[i] * code * code;
      if (!(other_products > 0 && other_squares > 0)) continue;
      const int better = std::min(63, nearest_int(x[i] * other_squares / other_products));
      if (better == codes[i]) continue;
      other_products += weight[i] * x[i] * static_cast<float>(better);
      other_squares += weight[i] * static_cast<float>(better) * static_cast<float>(better);
      if (!(other_products * other_products * squares > products * products * other_squares)) continue;
      codes[i] = static_cast<std::uint8_t>(better);
      products = other_products, squares = other_squares;
      changed = true;
    }
    if (!changed) break;
  }
  return squares > 0 ? products / squares : 0;
}

/// Codes of one super-block and the head of its block.
template <int kMost>
TUNE_INLINE void encode_super_block(const float* x, bool weighted, const float* scale, const float* minimum,
                                    const float* weight_sums, std::uint8_t (&codes)[kSuperBlockValues],
                                    std::byte* block) {
  std::array<std::uint8_t, kSubBlocks> scales{}, minima{};
  float d = 0, m = 0;
  if (weighted) {
    d = fit_six_bits(scale, weight_sums, scales);
    m = fit_six_bits(minimum, weight_sums, minima);
  } else {
    const float largest_scale = std::max(0.0f, *std::max_element(scale, scale + kSubBlocks));
    const float largest_minimum = std::max(0.0f, *std::max_element(minimum, minimum + kSubBlocks));
    const float inverse_scale = largest_scale > 0 ? 63 / largest_scale : 0;
    const float inverse_minimum = largest_minimum > 0 ? 63 / largest_minimum : 0;
    for (std::size_t j = 0; j < kSubBlocks; ++j) {
      scales[j] = static_cast<std::uint8_t>(nearest_int(inverse_scale * scale[j]));
      minima[j] = static_cast<std::uint8_t>(nearest_int(inverse_minimum * minimum[j]));
    }
    d = largest_scale / 63, m = largest_minimum / 63;
  }
  for (std::size_t j = 0; j < kSubBlocks; ++j)
    pack(j, {std::min<int>(63, scales[j]), std::min<int>(63, minima[j])}, block + 4);
  put_half(d, block);
  put_half(m, block + 2);
  for (std::size_t j = 0; j < kSubBlocks; ++j) {
    const ScaleAndMinimum stored = unpack(block + 4, j);
    const float step = half_at(block) * static_cast<float>(stored.scale);
    if (step == 0) continue;
    const float offset = half_at(block + 2) * static_cast<float>(stored.minimum);
    for (std::size_t i = 32 * j; i < 32 * (j + 1); ++i)
      codes[i] = static_cast<std::uint8_t>(clamped(nearest_int((x[i] + offset) / step), 0, kMost));
  }
}

/// The weights of 256 values' errors.
TUNE_INLINE void error_weights(const float* x, const float* importance, float (&weight)[kSuperBlockValues]) {
  const auto squares = [](const float* from, std::size_t count) {
    float sum = 0;
    for (std::size_t i = 0; i < count; ++i) sum += from[i] * from[i];
    return sum;
  };
  if (importance != nullptr) {
    const float variance = 2 * squares(x, kSuperBlockValues) / kSuperBlockValues;
    for (std::size_t i = 0; i < kSuperBlockValues; ++i) weight[i] = importance[i] * std::sqrt(variance + x[i] * x[i]);
    return;
  }
  for (std::size_t j = 0; j < kSubBlocks; ++j) {
    const float size = std::sqrt(squares(x + 32 * j, 32) / 32);
    for (std::size_t i = 32 * j; i < 32 * (j + 1); ++i) weight[i] = size + std::fabs(x[i]);
  }
}

/// All rows, two super-blocks at a time; write(codes, block) puts the codes behind a block's head.
template <int kMost, typename Write>
TUNE_INLINE void quantize_super_blocks(const Rows& rows, const MinimumSearch& plain, std::size_t block_bytes,
                                       std::byte* blocks, const Write& write) {
  constexpr MinimumSearch kWeighted = {kMost, -0.9f, 0.05f, 36};
  constexpr std::size_t kPair = kLanes / kSubBlocks;
  const std::size_t in_row = rows.columns / kSuperBlockValues, count = rows.rows * in_row;
  for (std::size_t first = 0; first < count; first += kPair) {
    Lanes<float, 32> x, weight;
    float scale[kLanes], minimum[kLanes], sums[kLanes] = {};
    Lanes<std::int32_t, 32> found;
    for (std::size_t p = 0; p < kPair; ++p) {
      const std::size_t n = std::min(first + p, count - 1);
      const float* values = rows.values + n * kSuperBlockValues;
      float weights[kSuperBlockValues];
      error_weights(values, rows.importance ? rows.importance + n % in_row * kSuperBlockValues : nullptr, weights);
      for (std::size_t i = 0; i < kSuperBlockValues; ++i) {
        const std::size_t lane = p * kSubBlocks + i / 32;
        x[i % 32][lane] = values[i];
        weight[i % 32][lane] = weights[i];
        sums[lane] += weights[i];
      }
    }
    fit_with_minimum<32>(x, weight, rows.importance != nullptr ? kWeighted : plain, found, scale, minimum);
    for (float& least : minimum) least = -least;
    for (std::size_t p = 0; p < kPair && first + p < count; ++p) {
      std::uint8_t codes[kSuperBlockValues];
      for (std::size_t i = 0; i < kSuperBlockValues; ++i)
        codes[i] = static_cast<std::uint8_t>(found[i % 32][p * kSubBlocks + i / 32]);
      const std::size_t lane = p * kSubBlocks, n = first + p;
      std::byte* block = blocks + n * block_bytes;
      encode_super_block<kMost>(rows.values + n * kSuperBlockValues, rows.importance != nullptr, scale + lane,
                                minimum + lane, sums + lane, codes, block);
      write(codes, block);
    }
  }
}

/// value = d s q - m t.
template <typename Code>
inline void dequantize_super_block(const std::byte* block, float* values, const Code& code) {
  const float d = half_at(block), m = half_at(block + 2);
  for (std::size_t j = 0; j < kSubBlocks; ++j) {
    const ScaleAndMinimum pair = unpack(block + 4, j);
    const float step = d * static_cast<float>(pair.scale), offset = m * static_cast<float>(pair.minimum);
    for (std::size_t i = 0; i < 32; ++i) values[32 * j + i] = step * static_cast<float>(code(j, i)) - offset;
  }
}

}  // namespace tune
