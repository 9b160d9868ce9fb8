#include "checkpoints/gguf/blocks/row_block.h"

namespace tune {

// 20 bytes: half d, half m, 16 bytes as in Q4_0; value = q d + m.

namespace {

constexpr std::size_t kBytes = 20;

TUNE_INLINE void write(const std::int32_t (&codes)[kBlockValues], float d, float m, std::byte* block) {
  put_half(d, block);
  put_half(m, block + 2);
  write_halves(codes, block + 4);
}

}  // namespace

void dequantize_q4_1(const std::byte* block, float* values) {
  const float d = half_at(block), m = half_at(block + 2);
  for (std::size_t i = 0; i < kBlockValues; ++i) values[i] = static_cast<float>(code_at(block + 4, i)) * d + m;
}

TUNE_CPU_CLONES void quantize_q4_1(const Rows& rows, std::byte* blocks) {
  quantize_rows_with_minimum<15>(rows, kBytes, blocks, write);
}

}  // namespace tune
