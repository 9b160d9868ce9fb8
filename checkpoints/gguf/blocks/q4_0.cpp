#include "checkpoints/gguf/blocks/row_block.h"

namespace tune {

// 18 bytes: half d, 16 bytes of which the low halves are values 0-15 and the high halves 16-31; value = (q - 8) d.

namespace {

constexpr std::size_t kBytes = 18;

TUNE_INLINE void write(const std::int32_t (&codes)[kBlockValues], float d, float, std::byte* block) {
  put_half(d, block);
  write_halves(codes, block + 2);
}

}  // namespace

void dequantize_q4_0(const std::byte* block, float* values) {
  const float d = half_at(block);
  for (std::size_t i = 0; i < kBlockValues; ++i) values[i] = static_cast<float>(code_at(block + 2, i) - 8) * d;
}

TUNE_CPU_CLONES void quantize_q4_0(const Rows& rows, std::byte* blocks) {
  quantize_symmetric_rows<8>(rows, kBytes, blocks, write);
}

}  // namespace tune
