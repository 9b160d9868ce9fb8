#include <algorithm>
#include <cmath>
#include <cstring>

#include "checkpoints/cpu_clones.h"
#include "checkpoints/gguf/blocks/formats.h"

namespace tune {

namespace {

constexpr std::size_t kBytes = 34;

/// std::round of |x| < 2^22 as a sum and a truncation, which vectorise: what is added is the largest float below one
/// half, so that what is less than a half stays less.
TUNE_INLINE std::int8_t rounded(float x) {
  constexpr float kBelowHalf = 0x1.fffffep-2f;
  return static_cast<std::int8_t>(static_cast<std::int32_t>(x + std::copysign(kBelowHalf, x)));
}

}  // namespace

// 34 bytes: half d, 32 signed bytes q; value = d q.

void dequantize_q8_0(const std::byte* block, float* values) {
  const float d = half_at(block);
  for (std::size_t i = 0; i < kBlockValues; ++i)
    values[i] = d * static_cast<float>(static_cast<std::int8_t>(block[2 + i]));
}

// The reference divides by d before d is rounded to half precision, and rounds halves away from zero.
TUNE_CPU_CLONES void quantize_q8_0(const Rows& rows, std::byte* blocks) {
  for (std::size_t n = 0; n < rows.rows * rows.columns / kBlockValues; ++n) {
    const float* values = rows.values + n * kBlockValues;
    std::byte* block = blocks + n * kBytes;
    float largest = 0;
#pragma omp simd reduction(max : largest)
    for (std::size_t i = 0; i < kBlockValues; ++i) largest = std::max(largest, std::fabs(values[i]));
    const float d = largest / 127.0f;
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    put_half(d, block);
    std::int8_t codes[kBlockValues];
#pragma omp simd
    for (std::size_t i = 0; i < kBlockValues; ++i) codes[i] = rounded(values[i] * inverse);
    std::memcpy(block + 2, codes, sizeof codes);
  }
}

}  // namespace tune
