#pragma once
#include <cstddef>
#include <cstdint>

namespace tune {

// One file a format, both directions. A block holds 32 values; its scales are IEEE half precision.

inline constexpr std::size_t kBlockValues = 32;

float half_at(const std::byte* bytes);
void put_half(float value, std::byte* bytes);  // to nearest, ties to even

void dequantize_q8_0(const std::byte* block, float* values);
void quantize_q8_0(const float* values, std::byte* block);
void dequantize_q4_0(const std::byte* block, float* values);
void dequantize_q4_1(const std::byte* block, float* values);

}  // namespace tune
