#pragma once
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "checkpoints/cpu_clones.h"

namespace tune {

// The searches for a group's scale, or scale and minimum, as ggml's reference quantiser makes them. Many groups are
// searched side by side, a group a lane, each in the order of its own values and with each of ggml's roundings: the
// bits of one after the other at the speed of vectors. To be compiled without contraction of a * b + c.

inline constexpr int kLanes = 16;

/// Magnitudes below it are nothing.
inline constexpr float kNothing = 1e-15f;

/// kLanes groups of kValues numbers each.
template <typename T, int kValues>
using Lanes = T[kValues][kLanes];

/// Nearest integer, ties to even; beyond 2^22 what the bits give, as in ggml.
TUNE_INLINE std::int32_t nearest_int(float x) {
  return (std::bit_cast<std::int32_t>(x + 12582912.0f) & 0x007fffff) - 0x00400000;
}

TUNE_INLINE std::int32_t clamped(std::int32_t x, std::int32_t low, std::int32_t high) {
  return x < low ? low : (x > high ? high : x);
}

/// Codes 0 to `most`; the inverse scales tried are (first + step t + most) / (largest - least), t = 0 ... steps.
struct MinimumSearch {
  std::int32_t most;
  float first, step;
  std::int32_t steps;
};

/// value ~ scale code + minimum with the least squared error, weighted; minimum <= 0.
template <int kValues>
TUNE_INLINE void fit_with_minimum(const Lanes<float, kValues>& x, const Lanes<float, kValues>& weight,
                                  const MinimumSearch& search, Lanes<std::int32_t, kValues>& codes,
                                  float (&scale)[kLanes], float (&minimum)[kLanes]) {
  const auto most = static_cast<float>(search.most);
  float largest[kLanes], inverse[kLanes], error[kLanes], weights[kLanes], weighted[kLanes];
  bool flat[kLanes];
  for (int k = 0; k < kLanes; ++k) {
    minimum[k] = largest[k] = x[0][k];
    weights[k] = weight[0][k];
    weighted[k] = weights[k] * x[0][k];
  }
  for (int i = 1; i < kValues; ++i) {
#pragma omp simd
    for (int k = 0; k < kLanes; ++k) {
      minimum[k] = x[i][k] < minimum[k] ? x[i][k] : minimum[k];
      largest[k] = x[i][k] > largest[k] ? x[i][k] : largest[k];
      weights[k] += weight[i][k];
      weighted[k] += weight[i][k] * x[i][k];
    }
  }
  for (int k = 0; k < kLanes; ++k) {
    minimum[k] = minimum[k] > 0 ? 0 : minimum[k];
    flat[k] = largest[k] == minimum[k];
    inverse[k] = flat[k] ? 0 : most / (largest[k] - minimum[k]);
    scale[k] = flat[k] ? 0 : 1 / inverse[k];
    error[k] = 0;
  }
  for (int i = 0; i < kValues; ++i) {
#pragma omp simd
    for (int k = 0; k < kLanes; ++k) {
      codes[i][k] = clamped(nearest_int(inverse[k] * (x[i][k] - minimum[k])), 0, search.most);
      const float difference = scale[k] * static_cast<float>(codes[i][k]) + minimum[k] - x[i][k];
      error[k] += weight[i][k] * (difference * difference);
    }
  }
  for (int t = 0; t <= search.steps; ++t) {
    const float numerator = search.first + search.step * static_cast<float>(t) + most;
    Lanes<std::int32_t, kValues> trial;
    float sum[kLanes] = {}, sum_squares[kLanes] = {}, sum_products[kLanes] = {};
    for (int k = 0; k < kLanes; ++k) inverse[k] = flat[k] ? 0 : numerator / (largest[k] - minimum[k]);
    for (int i = 0; i < kValues; ++i) {
#pragma omp simd
      for (int k = 0; k < kLanes; ++k) {
        const std::int32_t code = clamped(nearest_int(inverse[k] * (x[i][k] - minimum[k])), 0, search.most);
        trial[i][k] = code;
        const auto number = static_cast<float>(code);
        const float product = weight[i][k] * number;
        sum[k] += product;
        sum_squares[k] += product * number;
        sum_products[k] += product * x[i][k];
      }
    }
    float determinant[kLanes], this_scale[kLanes], this_minimum[kLanes], this_error[kLanes] = {};
#pragma omp simd
    for (int k = 0; k < kLanes; ++k) {
      determinant[k] = weights[k] * sum_squares[k] - sum[k] * sum[k];
      const float free_scale = (weights[k] * sum_products[k] - weighted[k] * sum[k]) / determinant[k];
      const float free_minimum = (sum_squares[k] * weighted[k] - sum[k] * sum_products[k]) / determinant[k];
      const float bound_scale = sum_products[k] / sum_squares[k];  // with the minimum at zero
      this_scale[k] = free_minimum > 0 ? bound_scale : free_scale;
      this_minimum[k] = free_minimum > 0 ? 0 : free_minimum;
    }
    for (int i = 0; i < kValues; ++i) {
#pragma omp simd
      for (int k = 0; k < kLanes; ++k) {
        const float difference = this_scale[k] * static_cast<float>(trial[i][k]) + this_minimum[k] - x[i][k];
        this_error[k] += weight[i][k] * (difference * difference);
      }
    }
    std::int32_t better[kLanes], any = 0;
    for (int k = 0; k < kLanes; ++k) {
      better[k] = !flat[k] & (determinant[k] > 0) & (this_error[k] < error[k]);
      any |= better[k];
      error[k] = better[k] ? this_error[k] : error[k];
      scale[k] = better[k] ? this_scale[k] : scale[k];
      minimum[k] = better[k] ? this_minimum[k] : minimum[k];
    }
    if (any == 0) continue;
    for (int i = 0; i < kValues; ++i) {
#pragma omp simd
      for (int k = 0; k < kLanes; ++k) codes[i][k] = better[k] != 0 ? trial[i][k] : codes[i][k];
    }
  }
}

/// value ~ scale (code - most) with codes 0 to 2 most - 1, the least squared error, weighted. A group without a value
/// of kNothing or more has scale and codes 0.
template <int kValues>
TUNE_INLINE void fit_scale(const Lanes<float, kValues>& x, const Lanes<float, kValues>& weight, std::int32_t most,
                           Lanes<std::int32_t, kValues>& codes, float (&scale)[kLanes]) {
  float extreme[kLanes] = {}, magnitude[kLanes] = {}, best[kLanes] = {};
  bool empty[kLanes];
  for (int i = 0; i < kValues; ++i) {
#pragma omp simd
    for (int k = 0; k < kLanes; ++k) {
      const float size = std::fabs(x[i][k]);
      extreme[k] = size > magnitude[k] ? x[i][k] : extreme[k];
      magnitude[k] = size > magnitude[k] ? size : magnitude[k];
    }
  }
  for (int k = 0; k < kLanes; ++k) {
    empty[k] = magnitude[k] < kNothing;
    scale[k] = 0;
  }
  for (int t = 0; t <= 18; ++t) {
    const int offset = t == 0 ? 0 : (t <= 9 ? t - 10 : t - 9);  // 0, then -9 ... 9 without 0
    const float numerator =
        t == 0 ? static_cast<float>(-most) : -(static_cast<float>(most) + 0.1f * static_cast<float>(offset));
    Lanes<std::int32_t, kValues> trial;
    float inverse[kLanes], sum_products[kLanes] = {}, sum_squares[kLanes] = {};
    for (int k = 0; k < kLanes; ++k) inverse[k] = empty[k] ? 0 : numerator / extreme[k];
    for (int i = 0; i < kValues; ++i) {
#pragma omp simd
      for (int k = 0; k < kLanes; ++k) {
        const std::int32_t code = clamped(nearest_int(inverse[k] * x[i][k]), -most, most - 1);
        trial[i][k] = code + most;
        const auto number = static_cast<float>(code);
        sum_products[k] += weight[i][k] * x[i][k] * number;
        sum_squares[k] += weight[i][k] * number * number;
      }
    }
    std::int32_t better[kLanes], any = 0;
    for (int k = 0; k < kLanes; ++k) {
      const bool more = sum_squares[k] > 0 && sum_products[k] * sum_products[k] > best[k] * sum_squares[k];
      better[k] = t == 0 || more;  // the first is taken as it is
      any |= better[k];
      const float this_scale = sum_squares[k] != 0 ? sum_products[k] / sum_squares[k] : 0.0f;
      scale[k] = better[k] ? this_scale : scale[k];
      best[k] = better[k] ? this_scale * sum_products[k] : best[k];
    }
    if (any == 0) continue;
    for (int i = 0; i < kValues; ++i) {
#pragma omp simd
      for (int k = 0; k < kLanes; ++k) codes[i][k] = better[k] != 0 ? trial[i][k] : codes[i][k];
    }
  }
  for (int k = 0; k < kLanes; ++k) {
    scale[k] = empty[k] ? 0 : scale[k];
    for (int i = 0; i < kValues; ++i) codes[i][k] = empty[k] ? 0 : codes[i][k];
  }
}

}  // namespace tune
