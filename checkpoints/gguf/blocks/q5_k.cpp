#include "checkpoints/gguf/blocks/super_block.h"

namespace tune {

// 176 bytes: the head of super_block.h, 32 bytes of fifth bits (bit j of byte i: value i of sub-block j), 128 bytes of
// the low four bits as in Q4_K.

void dequantize_q5_k(const std::byte* block, float* values) {
  dequantize_super_block(block, values, [&](std::size_t j, std::size_t i) {
    const auto pair = static_cast<int>(block[kSuperBlockHead + 32 + j / 2 * 32 + i]);
    const int fifth = static_cast<int>(block[kSuperBlockHead + i]) >> j & 1;
    return (j % 2 == 0 ? pair & 15 : pair >> 4) + 16 * fifth;
  });
}

TUNE_CPU_CLONES void quantize_q5_k(const Rows& rows, std::byte* blocks) {
  constexpr MinimumSearch kPlain = {31, -0.5f, 0.1f, 15};
  quantize_super_blocks<31>(
      rows, kPlain, 176, blocks, [](const std::uint8_t(&codes)[kSuperBlockValues], std::byte* block) {
        std::byte* high = block + kSuperBlockHead;
        for (std::size_t i = 0; i < 32; ++i) {
          int bits = 0;
          for (std::size_t j = 0; j < kSubBlocks; ++j) bits |= codes[32 * j + i] >> 4 << j;
          high[i] = static_cast<std::byte>(bits);
        }
        for (std::size_t p = 0; p < 4; ++p)
          for (std::size_t i = 0; i < 32; ++i)
            high[32 + 32 * p + i] =
                static_cast<std::byte>((codes[64 * p + i] & 15) | (codes[64 * p + 32 + i] & 15) << 4);
      });
}

}  // namespace tune
