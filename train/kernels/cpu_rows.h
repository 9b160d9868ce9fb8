#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>

#include "recipes/schema/error.h"

namespace tune {

/// Calls f with a value of the element type of x: float, c10::BFloat16 or c10::Half.
template <typename F>
void for_type(const at::Tensor& x, F&& f) {
  if (x.scalar_type() == at::kFloat) return f(0.0f);
  if (x.scalar_type() == at::kBFloat16) return f(c10::BFloat16(0.0f));
  TUNE_CHECK(x.scalar_type() == at::kHalf, "type {}; fp32, bf16 and fp16 are supported",
             c10::toString(x.scalar_type()));
  f(c10::Half(0.0f));
}

/// How many rows are worth a thread's waking up.
inline std::int64_t rows_per_task(std::int64_t columns) {
  constexpr std::int64_t kElementsPerTask = 16384;
  return std::max<std::int64_t>(1, kElementsPerTask / std::max<std::int64_t>(1, columns));
}

}  // namespace tune
