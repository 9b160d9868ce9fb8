#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace tune {

/// a [rank, in], b [rows, rank] fp32, the same length in both: scale * b a is the best approximation of a matrix of
/// that rank.
struct PrincipalFactors {
  at::Tensor a, b;
};

/// weight [rows, in] fp32. iterations: of the randomised subspace iteration (Halko et al. 2011) whose start `seed`
/// draws; 0 = an exact decomposition.
PrincipalFactors principal_factors(const at::Tensor& weight, std::int64_t rank, double scale, std::int64_t iterations,
                                   std::uint64_t seed);

}  // namespace tune
