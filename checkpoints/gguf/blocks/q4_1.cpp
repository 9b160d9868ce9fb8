#include "checkpoints/gguf/blocks/formats.h"

namespace tune {

// 20 bytes: half d, half m, 16 bytes as in Q4_0; value = q d + m.

void dequantize_q4_1(const std::byte* block, float* values) {
  const float d = half_at(block), m = half_at(block + 2);
  for (std::size_t i = 0; i < kBlockValues / 2; ++i) {
    const auto pair = static_cast<int>(block[4 + i]);
    values[i] = static_cast<float>(pair & 15) * d + m;
    values[i + kBlockValues / 2] = static_cast<float>(pair >> 4) * d + m;
  }
}

}  // namespace tune
