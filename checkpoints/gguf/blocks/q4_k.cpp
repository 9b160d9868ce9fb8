#include "checkpoints/gguf/blocks/super_block.h"

namespace tune {

// 144 bytes: the head of super_block.h, 128 bytes q: byte 32 p + i holds value i of the sub-blocks 2p (low half) and
// 2p + 1.

void dequantize_q4_k(const std::byte* block, float* values) {
  dequantize_super_block(block, values, [&](std::size_t j, std::size_t i) {
    const auto pair = static_cast<int>(block[kSuperBlockHead + j / 2 * 32 + i]);
    return j % 2 == 0 ? pair & 15 : pair >> 4;
  });
}

TUNE_CPU_CLONES void quantize_q4_k(const Rows& rows, std::byte* blocks) {
  constexpr MinimumSearch kPlain = {15, -1.0f, 0.1f, 20};
  quantize_super_blocks<15>(rows, kPlain, 144, blocks,
                            [](const std::uint8_t(&codes)[kSuperBlockValues], std::byte* block) {
                              for (std::size_t p = 0; p < 4; ++p)
                                for (std::size_t i = 0; i < 32; ++i)
                                  block[kSuperBlockHead + 32 * p + i] =
                                      static_cast<std::byte>(codes[64 * p + i] | codes[64 * p + 32 + i] << 4);
                            });
}

}  // namespace tune
