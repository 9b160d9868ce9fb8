#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "checkpoints/gguf/gguf.h"

namespace tune {

/// Values of whole blocks as fp32; values.size() is a multiple of the type's block, bytes its stored size.
void dequantize(GgufType type, std::span<const std::byte> bytes, std::span<float> values);

/// The other way: F32, F16, BF16, Q8_0, bit for bit as llama.cpp's reference quantiser.
void quantize(GgufType type, std::span<const float> values, std::span<std::byte> bytes);

}  // namespace tune
