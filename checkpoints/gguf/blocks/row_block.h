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

// Without an importance: the value of the largest magnitude, or the least and the largest one, decide on the scale.

/// value = scale (code - most); returns the scale.
template <std::int32_t kMost>
TUNE_INLINE float quantize_symmetric(const float* values, std::int32_t (&codes)[kBlockValues]) {
  constexpr float kUp = static_cast<float>(kMost) + 0.5f;
  float magnitude = 0;
#pragma omp simd reduction(max : magnitude)
  for (std::size_t i = 0; i < kBlockValues; ++i) magnitude = std::max(magnitude, std::fabs(values[i]));
  const float extreme = *std::find_if(values, values + kBlockValues - 1,
                                      [magnitude](float value) { return std::fabs(value) == magnitude; });
  const float scale = extreme / static_cast<float>(-kMost), inverse = scale != 0 ? 1.0f / scale : 0.0f;
#pragma omp simd
  for (std::size_t i = 0; i < kBlockValues; ++i)
    codes[i] = std::min(2 * kMost - 1, static_cast<std::int32_t>(values[i] * inverse + kUp));
  return scale;
}

struct ScaleAndMinimum {
  float scale, minimum;
};

/// value = scale code + minimum, code at most kMost.
template <std::int32_t kMost>
TUNE_INLINE ScaleAndMinimum quantize_with_minimum(const float* values, std::int32_t (&codes)[kBlockValues]) {
  constexpr float kUp = 0.5f;
  float least = values[0], largest = values[0];
#pragma omp simd reduction(min : least) reduction(max : largest)
  for (std::size_t i = 0; i < kBlockValues; ++i) {
    least = std::min(least, values[i]);
    largest = std::max(largest, values[i]);
  }
  if (least == 0) least = *std::find(values, values + kBlockValues - 1, 0.0f);  // the sign of the first zero
  const float scale = (largest - least) / static_cast<float>(kMost), inverse = scale != 0 ? 1.0f / scale : 0.0f;
#pragma omp simd
  for (std::size_t i = 0; i < kBlockValues; ++i)
    codes[i] = std::min(kMost, static_cast<std::int32_t>((values[i] - least) * inverse + kUp));
  return {scale, least};
}

/// Whole rows of a symmetric format, with codes 0 to 2 kMost - 1.
template <std::int32_t kMost, typename Write>
TUNE_INLINE void quantize_symmetric_rows(const Rows& rows, std::size_t block_bytes, std::byte* blocks,
                                         const Write& write) {
  if (rows.importance != nullptr) return quantize_weighted(rows, block_bytes, blocks, SearchScale<kMost>{}, write);
  for (std::size_t n = 0; n < rows.rows * rows.columns / kBlockValues; ++n) {
    std::int32_t codes[kBlockValues];
    const float scale = quantize_symmetric<kMost>(rows.values + n * kBlockValues, codes);
    write(codes, scale, 0, blocks + n * block_bytes);
  }
}

/// Whole rows of a format with a minimum, with codes 0 to kMost.
template <std::int32_t kMost, typename Write>
TUNE_INLINE void quantize_rows_with_minimum(const Rows& rows, std::size_t block_bytes, std::byte* blocks,
                                            const Write& write) {
  if (rows.importance != nullptr) return quantize_weighted(rows, block_bytes, blocks, SearchMinimum<kMost>{}, write);
  for (std::size_t n = 0; n < rows.rows * rows.columns / kBlockValues; ++n) {
    std::int32_t codes[kBlockValues];
    const auto [scale, minimum] = quantize_with_minimum<kMost>(rows.values + n * kBlockValues, codes);
    write(codes, scale, minimum, blocks + n * block_bytes);
  }
}

/// 16 bytes: value i in the low half of byte i, value 16 + i in its high half.
TUNE_INLINE void write_halves(const std::int32_t (&codes)[kBlockValues], std::byte* bytes) {
  for (std::size_t i = 0; i < kBlockValues / 2; ++i)
    bytes[i] = static_cast<std::byte>((codes[i] & 15) | (codes[i + kBlockValues / 2] & 15) << 4);
}

/// 4 bytes, little-endian: bit i is the fifth bit of value i.
TUNE_INLINE void write_fifth_bits(const std::int32_t (&codes)[kBlockValues], std::byte* bytes) {
  std::uint32_t bits = 0;
#pragma omp simd reduction(| : bits)
  for (std::size_t i = 0; i < kBlockValues; ++i) bits |= (static_cast<std::uint32_t>(codes[i]) >> 4 & 1U) << i;
  for (std::size_t i = 0; i < 4; ++i) bytes[i] = static_cast<std::byte>(bits >> (8 * i));
}

inline int code_at(const std::byte* halves, std::size_t i) {
  const auto pair = static_cast<int>(halves[i % (kBlockValues / 2)]);
  return i < kBlockValues / 2 ? pair & 15 : pair >> 4;
}

inline int fifth_bit_at(const std::byte* bits, std::size_t i) { return static_cast<int>(bits[i / 8]) >> (i % 8) & 1; }

}  // namespace tune
