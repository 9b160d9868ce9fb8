#include "checkpoints/quantize/dynamic_map.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace tune {
namespace {

// From 0.1 to 1 in equal steps, from both ends towards the middle, each value rounded once: as torch.linspace does it.
std::vector<float> boundaries(int count) {
  constexpr float kFirst = 0.1f, kLast = 1.0f;
  const float step = (kLast - kFirst) / static_cast<float>(count - 1);
  std::vector<float> values;
  for (int i = 0; i < count; ++i)
    values.push_back(i < count / 2 ? std::fma(step, static_cast<float>(i), kFirst)
                                   : std::fma(-step, static_cast<float>(count - 1 - i), kLast));
  return values;
}

DynamicMap make_map(bool is_signed) {
  constexpr int kExponents = 7;
  std::vector<float> values = {0.0f, 1.0f};
  for (int i = 0; i < kExponents; ++i) {
    const auto power = static_cast<float>(std::pow(10.0, i - (kExponents - 1)));
    const std::vector<float> edges = boundaries((1 << (is_signed ? i : i + 1)) + 1);
    for (std::size_t k = 0; k + 1 < edges.size(); ++k) {
      const float value = power * ((edges[k] + edges[k + 1]) / 2.0f);
      values.push_back(value);
      if (is_signed) values.push_back(-value);
    }
  }
  values.resize(256, 0.0f);
  std::sort(values.begin(), values.end());
  DynamicMap map{};
  std::copy(values.begin(), values.end(), map.values.begin());
  for (std::size_t i = 0; i + 1 < values.size(); ++i) map.midpoints[i] = (values[i] + values[i + 1]) / 2.0f;
  map.midpoints.back() = std::numeric_limits<float>::infinity();
  for (std::uint32_t upper = 0; upper < map.first.size(); ++upper) {
    const bool negative = upper >= 0x8000u;
    const auto least = std::bit_cast<float>(upper << 16 | (negative ? 0xFFFFu : 0u));  // of the floats that have it
    const auto below = std::lower_bound(map.midpoints.begin(), map.midpoints.end() - 1, std::isnan(least) ? 0 : least);
    map.first[upper] = static_cast<std::uint8_t>(below - map.midpoints.begin());
  }
  return map;
}

}  // namespace

const DynamicMap& dynamic_map(bool is_signed) {
  static const DynamicMap with_sign = make_map(true), without = make_map(false);
  return is_signed ? with_sign : without;
}

}  // namespace tune
