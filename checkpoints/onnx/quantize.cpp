#include "checkpoints/onnx/quantize.h"

#include <algorithm>
#include <cmath>

namespace tune {

float quantize_int8(std::span<const float> values, std::span<std::int8_t> quantized) {
  float largest = 0.0f;
  for (const float value : values) largest = std::max(largest, std::fabs(value));
  const float scale = largest / 127.0f;
  if (!(scale > 0.0f)) {  // zeros, or too small for a scale
    std::fill(quantized.begin(), quantized.end(), std::int8_t{0});
    return 1.0f;
  }
  for (std::size_t i = 0; i < values.size(); ++i)
    quantized[i] = static_cast<std::int8_t>(std::clamp(std::nearbyintf(values[i] / scale), -127.0f, 127.0f));
  return scale;
}

float quantize_block(std::span<const float> values, int bits, std::span<std::uint8_t> quantized) {
  float least = 0.0f, most = 0.0f;
  for (const float value : values) {
    least = std::min(least, value);
    most = std::max(most, value);
  }
  const auto zero = static_cast<float>(1 << (bits - 1));
  const float scale = (std::fabs(most) > std::fabs(least) ? most : least) / -zero;
  const float reciprocal = scale != 0.0f ? 1.0f / scale : 0.0f;
  for (std::size_t i = 0; i < values.size(); ++i)
    quantized[i] =
        static_cast<std::uint8_t>(std::clamp(std::roundf(values[i] * reciprocal + zero), 0.0f, 2 * zero - 1));
  return scale;
}

}  // namespace tune
