#pragma once
#include <algorithm>

#include "checkpoints/gguf/blocks/fit.h"
#include "checkpoints/gguf/blocks/formats.h"

namespace tune {

// What the formats of 32 values share when their columns have an importance: a row's blocks are searched kLanes at a
// time, an error counts importance sqrt(mean square of the row + value^2).

TUNE_INLINE float mean_square(const float* row, std::size_t columns) {
  float sum = 0;
  for (std::size_t i = 0; i < columns; ++i) sum += row[i] * row[i];
  return sum / static_cast<float>(columns);
}

/// search(x, weight, codes, scale, minimum) fits kLanes blocks; write(codes, scale, minimum, block) stores one.
template <typename Search, typename Write>
TUNE_INLINE void quantize_weighted(const Rows& rows, std::size_t block_bytes, std::byte* blocks, const Search& search,
                                   const Write& write) {
  const std::size_t in_row = rows.columns / kBlockValues;
  for (std::size_t row = 0; row < rows.rows; ++row) {
    const float* values = rows.values + row * rows.columns;
    const float variance = mean_square(values, rows.columns);
    for (std::size_t first = 0; first < in_row; first += kLanes) {
      Lanes<float, kBlockValues> x, weight;
      Lanes<std::int32_t, kBlockValues> found;
      float scale[kLanes], minimum[kLanes];
      for (std::size_t k = 0; k < kLanes; ++k) {
        const std::size_t from = std::min(first + k, in_row - 1) * kBlockValues;
        for (std::size_t i = 0; i < kBlockValues; ++i) {
          const float value = values[from + i];
          x[i][k] = value;
          weight[i][k] = rows.importance[from + i] * std::sqrt(variance + value * value);
        }
      }
      search(x, weight, found, scale, minimum);
      for (std::size_t k = 0; k < kLanes && first + k < in_row; ++k) {
        std::int32_t codes[kBlockValues];
        for (std::size_t i = 0; i < kBlockValues; ++i) codes[i] = found[i][k];
        write(codes, scale[k], minimum[k], blocks + (row * in_row + first + k) * block_bytes);
      }
    }
  }
}

/// Symmetric formats: value = scale (code - most).
template <std::int32_t kMost>
struct SearchScale {
  TUNE_INLINE void operator()(const Lanes<float, kBlockValues>& x, const Lanes<float, kBlockValues>& weight,
                              Lanes<std::int32_t, kBlockValues>& codes, float (&scale)[kLanes],
                              float (&minimum)[kLanes]) const {
    fit_scale<kBlockValues>(x, weight, kMost, codes, scale);
    std::fill_n(minimum, kLanes, 0.0f);
  }
};

/// Those with a minimum: value = scale code + minimum.
template <std::int32_t kMost>
struct SearchMinimum {
  TUNE_INLINE void operator()(const Lanes<float, kBlockValues>& x, const Lanes<float, kBlockValues>& weight,
                              Lanes<std::int32_t, kBlockValues>& codes, float (&scale)[kLanes],
                              float (&minimum)[kLanes]) const {
    constexpr MinimumSearch kSearch = {kMost, -0.9f, 0.05f, 36};
    fit_with_minimum<kBlockValues>(x, weight, kSearch, codes, scale, minimum);
  }
};

/// The value of the largest magnitude, the first of them.
inline float extreme_of(const float* values) {
  return *std::max_element(values, values + kBlockValues, [](float a, float b) { return std::fabs(a) < std::fabs(b); });
}

/// 16 bytes: value i in the low half of byte i, value 16 + i in its high half.
inline void write_halves(const std::int32_t (&codes)[kBlockValues], std::byte* bytes) {
  for (std::size_t i = 0; i < kBlockValues / 2; ++i)
    bytes[i] = static_cast<std::byte>((codes[i] & 15) | (codes[i + kBlockValues / 2] & 15) << 4);
}

/// 4 bytes, little-endian: bit i is the fifth bit of value i.
inline void write_fifth_bits(const std::int32_t (&codes)[kBlockValues], std::byte* bytes) {
  std::uint32_t bits = 0;
  for (std::size_t i = 0; i < kBlockValues; ++i) bits |= (static_cast<std::uint32_t>(codes[i]) >> 4 & 1U) << i;
  for (std::size_t i = 0; i < 4; ++i) bytes[i] = static_cast<std::byte>(bits >> (8 * i));
}

inline int code_at(const std::byte* halves, std::size_t i) {
  const auto pair = static_cast<int>(halves[i % (kBlockValues / 2)]);
  return i < kBlockValues / 2 ? pair & 15 : pair >> 4;
}

inline int fifth_bit_at(const std::byte* bits, std::size_t i) { return static_cast<int>(bits[i / 8]) >> (i % 8) & 1; }

}  // namespace tune
