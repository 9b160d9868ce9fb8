#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "checkpoints/fp16.h"
#include "recipes/schema/recipe.h"

namespace tune {

std::size_t element_bytes(Dtype dtype);

/// The least magnitude that rounds to infinity; infinity itself for fp32.
double overflow_of(Dtype dtype);

/// As safetensors spells it.
std::string_view dtype_name(Dtype dtype);

/// True for the stored dtypes that convert_elements() reads: F32, F16, BF16.
bool is_convertible(std::string_view dtype);

/// Converts each element, rounding to nearest even; NaN stays NaN, what is too large becomes infinite. Neither side
/// need be aligned. TUNE_CHECK: `from` is convertible, both spans hold the same number of elements.
void convert_elements(std::string_view from, std::span<const std::byte> source, Dtype to,
                      std::span<std::byte> destination);

}  // namespace tune
