#pragma once
#include <cstdint>

namespace tune {

/// c [m, n] (+)= a [m, k] b [k, n] in fp32 on one thread: blocks that fit in the cache, without a library's set-up.
/// a may have any strides, also those of a transposed matrix; rows of b and c are contiguous.
struct SmallGemm {
  std::int64_t m = 0, n = 0, k = 0;  // n is a multiple of 16
  const float* a = nullptr;
  std::int64_t a_row = 0, a_column = 0;  // strides
  const float* b = nullptr;
  std::int64_t b_row = 0;
  float* c = nullptr;
  std::int64_t c_row = 0;
  bool add = false;  // to what c holds
};
void small_gemm(const SmallGemm& gemm);

}  // namespace tune
