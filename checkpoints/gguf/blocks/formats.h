#pragma once
#include <cstddef>
#include <cstdint>

namespace tune {

// One file a format, both directions. A block holds 32 values, one of the K formats 256 in sub-blocks of 32 or 16; its
// scales are IEEE half precision.

inline constexpr std::size_t kBlockValues = 32;
inline constexpr std::size_t kSuperBlockValues = 256;

float half_at(const std::byte* bytes);
void put_half(float value, std::byte* bytes);  // to nearest, ties to even

/// Whole rows to encode. With importance, one number a column, the error of a value counts by its column's.
struct Rows {
  const float* values;
  std::size_t rows, columns;
  const float* importance;  // nullptr: all columns alike
};

void dequantize_q4_0(const std::byte* block, float* values);
void dequantize_q4_1(const std::byte* block, float* values);
void dequantize_q5_0(const std::byte* block, float* values);
void dequantize_q5_1(const std::byte* block, float* values);
void dequantize_q8_0(const std::byte* block, float* values);
void dequantize_q4_k(const std::byte* block, float* values);
void dequantize_q5_k(const std::byte* block, float* values);
void dequantize_q6_k(const std::byte* block, float* values);

void quantize_q4_0(const Rows& rows, std::byte* blocks);
void quantize_q4_1(const Rows& rows, std::byte* blocks);
void quantize_q5_0(const Rows& rows, std::byte* blocks);
void quantize_q5_1(const Rows& rows, std::byte* blocks);
void quantize_q8_0(const Rows& rows, std::byte* blocks);  // by the largest value alone, importance or not
void quantize_q4_k(const Rows& rows, std::byte* blocks);
void quantize_q5_k(const Rows& rows, std::byte* blocks);
void quantize_q6_k(const Rows& rows, std::byte* blocks);

}  // namespace tune
