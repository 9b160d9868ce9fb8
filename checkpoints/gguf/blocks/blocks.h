#pragma once
#include <cstddef>
#include <span>

#include "checkpoints/gguf/gguf.h"

namespace tune {

/// Values of whole blocks as fp32. values.size() is a multiple of the type's block, bytes.size() its stored size
/// (TUNE_CHECK). Bit for bit what ggml and gguf-py give. Neither side need be aligned.
void dequantize(GgufType type, std::span<const std::byte> bytes, std::span<float> values);

/// The other way, bit for bit as ggml's reference quantiser. With importance, one number >= 0 a column (then values are
/// whole rows of importance.size(), a multiple of the block: TUNE_CHECK), errors count by their column's, as in
/// llama.cpp with an importance matrix; F32, F16, BF16 and Q8_0 don't heed it.
void quantize(GgufType type, std::span<const float> values, std::span<std::byte> bytes,
              std::span<const float> importance = {});

/// The least magnitude that quantize() can't store as a finite number.
double overflow_of(GgufType type);

}  // namespace tune
