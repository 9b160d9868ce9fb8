#pragma once
#include <array>
#include <cstdint>

namespace tune {

/// The 256 values of the 8-bit dynamic data type, ascending: exponents from 1e-6 to 1, each with as many fraction bits
/// as are left. `is_signed`: symmetric, -0.993 to 1; else 0 to 1. Dettmers 2015, "8-Bit Approximations for Parallelism
/// in Deep Learning"; equal to bitsandbytes' create_dynamic_map(), to the bit. Built once.
const std::array<float, 256>& dynamic_map(bool is_signed);

/// The code of the value nearest to x; of two that are equally near the smaller one. Thread-safe.
std::uint8_t nearest_code(const std::array<float, 256>& map, float x);

}  // namespace tune
