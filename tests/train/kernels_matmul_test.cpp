#include <gtest/gtest.h>

#include "tests/train/kernels_judging.h"
#include "train/kernels/matmul.h"
#include "train/kernels/small_gemm.h"

namespace tune {
namespace {

struct Product {
  std::int64_t m, k, n;
};
constexpr Product kProducts[] = {
    {1, 8, 5}, {65, 576, 16}, {130, 16, 576}, {300, 512, 200}};  // both sides of kSmallProduct

class Matmul : public KernelTest {};
class SmallGemmTest : public KernelTest {};

// k products and additions in fp32, the result rounded to its type.
at::Tensor bound_of(const at::Tensor& a, const at::Tensor& b, const at::Tensor& expected) {
  return at::mm(a.to(at::kDouble).abs(), b.to(at::kDouble).abs()) * (static_cast<double>(a.size(1) + 2) * 0x1p-24) +
         expected.abs() * (1.01 * unit_roundoff(a.scalar_type()));
}

TEST_F(Matmul, EqualsFp64InEveryOrientation) {
  for (const at::ScalarType type : kTypes)
    for (const Product& p : kProducts) {
      const at::Tensor a = random({p.m, p.k}, type), b = random({p.k, p.n}, type);
      const at::Tensor expected = at::mm(a.to(at::kDouble), b.to(at::kDouble)), bound = bound_of(a, b, expected);
      const std::string what = fmt::format("{} {} x {} x {}", c10::toString(type), p.m, p.k, p.n);
      expect_within(matmul_nn(a, b), expected, bound, what + " nn");
      expect_within(matmul_nt(a, b.t().contiguous()), expected, bound, what + " nt");
      expect_within(matmul_tn(a.t().contiguous(), b), expected, bound, what + " tn");
    }
}

TEST_F(Matmul, AddsScaledProductsInPlace) {
  for (const at::ScalarType type : kTypes)
    for (const Product& p : kProducts)
      for (const double alpha : {1.0, 2.0, 0.37}) {
        const at::Tensor a = random({p.m, p.k}, type), before = random({p.m, p.n}, type);
        const at::Tensor b = random({p.n, p.k}, type).t();
        const at::Tensor product = at::mm(a.to(at::kDouble), b.to(at::kDouble)),
                         expected = before.to(at::kDouble) + alpha * product;
        at::Tensor y = before.clone();
        add_matmul_(y, a, b, alpha);
        // libraries may round alpha a b to the type before they add
        const at::Tensor bound =
            bound_of(a, b, product) * alpha + (expected.abs() + before.abs()) * (1.01 * unit_roundoff(type));
        expect_within(y, expected, bound, fmt::format("{} {} x {} x {}", c10::toString(type), p.m, p.k, p.n));
      }
}

TEST_F(Matmul, ThroughFp32EqualsFp64) {
  for (const Product& p : kProducts) {
    const at::Tensor a = random({p.m, p.k}, at::kBFloat16), b = random({p.n, p.k}, at::kBFloat16).t();
    const at::Tensor before = random({p.m, p.n}, at::kBFloat16), product = at::mm(a.to(at::kDouble), b.to(at::kDouble));
    at::Tensor fresh = at::full_like(before, std::numeric_limits<double>::quiet_NaN()), added = before.clone();
    const std::int64_t three_columns = 3 * p.k + 1;
    multiply_through_fp32(fresh, a, b, 0, 1, three_columns);
    multiply_through_fp32(added, a, b, 1, 0.5, three_columns);
    const std::string what = fmt::format("{} x {} x {}", p.m, p.k, p.n);
    expect_within(fresh, product, bound_of(a, b, product), what);
    const at::Tensor sum = before.to(at::kDouble) + 0.5 * product;
    expect_within(added, sum, bound_of(a, b, sum) + before.to(at::kDouble).abs() * 0x1p-22, what + " added");
  }
}

TEST_F(Matmul, RepeatsToTheLastBit) {
  for (const at::ScalarType type : kTypes)
    for (const Product& p : kProducts) {
      const at::Tensor a = random({p.m, p.k}, type), b = random({p.n, p.k}, type);
      const at::Tensor first = matmul_nt(a, b);
      for (int i = 0; i < 5; ++i) ASSERT_TRUE(at::equal(matmul_nt(a, b), first));
    }
}

TEST_F(SmallGemmTest, EqualsFp64ForEveryTileSize) {
  for (std::int64_t m = 1; m <= 13; ++m)
    for (const std::int64_t n : {16, 32, 48, 64, 80})
      for (const std::int64_t k : {1, 5, 64})
        for (const bool transposed : {false, true}) {
          const at::Tensor a = transposed ? at::randn({k, m}).t() : at::randn({m, k}), b = at::randn({k, n});
          const at::Tensor before = at::randn({m, n});
          at::Tensor c = before.clone();
          small_gemm({.m = m,
                      .n = n,
                      .k = k,
                      .a = a.const_data_ptr<float>(),
                      .a_row = a.stride(0),
                      .a_column = a.stride(1),
                      .b = b.const_data_ptr<float>(),
                      .b_row = n,
                      .c = c.data_ptr<float>(),
                      .c_row = n,
                      .add = transposed});
          const at::Tensor product = at::mm(a.to(at::kDouble), b.to(at::kDouble));
          const at::Tensor expected = transposed ? before + product : product;
          expect_within(c, expected,
                        bound_of(a, b, product) + (expected.abs() + before.abs()) * (static_cast<double>(k) * 0x1p-24),
                        fmt::format("{} x {} x {}", m, k, n));
        }
}

}  // namespace
}  // namespace tune
