#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace tune {

/// Stochastic rounding (Gupta et al. 2015): `value` becomes one of the two bf16 numbers around `exact`, with a
/// probability that falls with the distance, so that it is right on average. Which one is a function of (key, place of
/// the element) alone, the same on every device. value [any] bf16 and exact [as value] fp32, contiguous; the places
/// begin at `first`.
void stochastic_round_(at::Tensor& value, const at::Tensor& exact, std::uint64_t key, std::int64_t first = 0);

}  // namespace tune
