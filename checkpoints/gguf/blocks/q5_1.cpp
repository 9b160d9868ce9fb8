#include "checkpoints/gguf/blocks/row_block.h"

namespace tune {

// 24 bytes: half d, half m, 4 bytes of fifth bits, 16 bytes of the low four as in Q4_0; value = q d + m.

namespace {

constexpr std::size_t kBytes = 24;

TUNE_INLINE void write(const std::int32_t (&codes)[kBlockValues], float d, float m, std::byte* block) {
  put_half(d, block);
  put_half(m, block + 2);
  write_fifth_bits(codes, block + 4);
  write_halves(codes, block + 8);
}

}  // namespace

void dequantize_q5_1(const std::byte* block, float* values) {
  const float d = half_at(block), m = half_at(block + 2);
  for (std::size_t i = 0; i < kBlockValues; ++i)
    values[i] = static_cast<float>(code_at(block + 8, i) | fifth_bit_at(block + 4, i) << 4) * d + m;
}

TUNE_CPU_CLONES void quantize_q5_1(const Rows& rows, std::byte* blocks) {
  quantize_rows_with_minimum<31>(rows, kBytes, blocks, write);
}

}  // namespace tune
