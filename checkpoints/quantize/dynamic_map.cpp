#include "checkpoints/quantize/dynamic_map.h"

#include <algorithm>
#include <cmath>
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

std::array<float, 256> make_map(bool is_signed) {
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
  std::array<float, 256> map{};
  std::copy(values.begin(), values.end(), map.begin());
  return map;
}

}  // namespace

const std::array<float, 256>& dynamic_map(bool is_signed) {
  static const std::array<float, 256> with_sign = make_map(true), without = make_map(false);
  return is_signed ? with_sign : without;
}

std::uint8_t nearest_code(const std::array<float, 256>& map, float x) {
  std::size_t low = 0;  // how many midpoints lie below x
  for (std::size_t half = 128; half > 0; half /= 2)
    if (const std::size_t next = low + half; (map[next - 1] + map[next]) / 2.0f < x) low = next;
  return static_cast<std::uint8_t>(low);
}

}  // namespace tune
