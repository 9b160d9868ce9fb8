#pragma once
#include <cstdint>
#include <span>

namespace tune {

inline constexpr std::int64_t kOnnxBlock = 32;  // values that share a scale

/// value = q * scale, q from -127 to 127, so that the largest magnitude is exact. Returns the scale, which is never 0.
/// quantized.size() == values.size().
float quantize_int8(std::span<const float> values, std::span<std::int8_t> quantized);

/// value = (q - 2^(bits-1)) * scale, q below 2^bits, as onnxruntime's own quantiser does it, bit for bit: the value of
/// the largest magnitude becomes q = 0 exactly, so the scale has its sign turned round. Returns the scale; 0 where all
/// values are 0. bits: 4 or 8. One byte a value: quantized.size() == values.size().
float quantize_block(std::span<const float> values, int bits, std::span<std::uint8_t> quantized);

}  // namespace tune
