#include "checkpoints/gguf/blocks/formats.h"

namespace tune {

// 18 bytes: half d, 16 bytes of which the low halves are values 0-15 and the high halves 16-31; value = (q - 8) d.

void dequantize_q4_0(const std::byte* block, float* values) {
  const float d = half_at(block);
  for (std::size_t i = 0; i < kBlockValues / 2; ++i) {
    const auto pair = static_cast<int>(block[2 + i]);
    values[i] = static_cast<float>((pair & 15) - 8) * d;
    values[i + kBlockValues / 2] = static_cast<float>((pair >> 4) - 8) * d;
  }
}

}  // namespace tune
