#include "checkpoints/gguf/blocks/row_block.h"

namespace tune {

// 22 bytes: half d, 4 bytes of fifth bits, 16 bytes of the low four as in Q4_0; value = (q - 16) d.

namespace {

constexpr std::size_t kBytes = 22;

TUNE_INLINE void write(const std::int32_t (&codes)[kBlockValues], float d, float, std::byte* block) {
  put_half(d, block);
  write_fifth_bits(codes, block + 2);
  write_halves(codes, block + 6);
}

}  // namespace

void dequantize_q5_0(const std::byte* block, float* values) {
  const float d = half_at(block);
  for (std::size_t i = 0; i < kBlockValues; ++i)
    values[i] = static_cast<float>((code_at(block + 6, i) | fifth_bit_at(block + 2, i) << 4) - 16) * d;
}

TUNE_CPU_CLONES void quantize_q5_0(const Rows& rows, std::byte* blocks) {
  quantize_symmetric_rows<16>(rows, kBytes, blocks, write);
}

}  // namespace tune
