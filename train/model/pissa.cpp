#include "train/model/pissa.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>

namespace tune {
namespace {

at::Tensor orthonormal(const at::Tensor& columns) { return std::get<0>(at::linalg_qr(columns)); }

}  // namespace

PrincipalFactors principal_factors(const at::Tensor& weight, std::int64_t rank, double scale, std::int64_t iterations,
                                   std::uint64_t seed) {
  at::Tensor left, values, right;  // [rows, k], [k], [k, in]
  if (iterations == 0) {
    std::tie(left, values, right) = at::linalg_svd(weight, /*full_matrices=*/false);
  } else {
    constexpr std::int64_t kMore = 8;  // directions beyond the rank make the last ones exact sooner
    const std::int64_t width = std::min({rank + kMore, weight.size(0), weight.size(1)});
    auto generator = at::detail::createCPUGenerator(seed);
    const at::Tensor start = at::randn({weight.size(1), width}, generator, at::TensorOptions().dtype(at::kFloat));
    at::Tensor range = orthonormal(at::matmul(weight, start.to(weight.device())));
    for (std::int64_t i = 0; i < iterations; ++i)
      range = orthonormal(at::matmul(weight, orthonormal(at::matmul(weight.t(), range))));
    std::tie(left, values, right) = at::linalg_svd(at::matmul(range.t(), weight), /*full_matrices=*/false);
    left = at::matmul(range, left);
  }
  const at::Tensor root = (values.narrow(0, 0, rank) / scale).sqrt();
  return {root.unsqueeze(1) * right.narrow(0, 0, rank), left.narrow(1, 0, rank) * root};
}

}  // namespace tune
