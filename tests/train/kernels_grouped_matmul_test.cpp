#include <gtest/gtest.h>

#include "tests/train/kernels_judging.h"
#include "train/kernels/grouped_matmul.h"
#include "train/kernels/matmul.h"

namespace tune {
namespace {

class GroupedMatmul : public KernelTest {};

RowGroups groups_of(const std::vector<std::int64_t>& sizes) { return {at::tensor(sizes).cumsum(0).to(at::kInt)}; }

TEST_F(GroupedMatmul, EqualsAProductAGroup) {
  constexpr std::int64_t kIn = 24, kOut = 40;
  for (const at::ScalarType type : kTypes)
    for (const std::vector<std::int64_t>& sizes : {std::vector<std::int64_t>{5, 0, 61, 1}, {0, 0, 9}, {7, 70}}) {
      const RowGroups groups = groups_of(sizes);
      const std::int64_t count = groups.count(), rows = groups.ends[-1].item<std::int64_t>();
      const at::Tensor x = random({rows, kIn}, type), dy = random({rows, kOut}, type);
      const at::Tensor weight = random({count * kOut, kIn}, type);
      const at::Tensor y = grouped_matmul_nt(x, weight, groups), dx = grouped_matmul_nn(dy, weight, groups);
      const at::Tensor dw = grouped_matmul_tn(dy, x, groups);
      at::Tensor y_added = dy.clone(), dx_added = x.clone();
      add_grouped_matmul_nt_(y_added, x, weight, 0.5, groups);
      add_grouped_matmul_nn_(dx_added, dy, weight, groups);
      for (std::int64_t g = 0, first = 0, n = 0; g < count; ++g, first += n) {
        n = sizes[static_cast<std::size_t>(g)];
        const at::Tensor w = weight.narrow(0, g * kOut, kOut), xs = x.narrow(0, first, n), ds = dy.narrow(0, first, n);
        if (n == 0) {
          EXPECT_FALSE(dw.narrow(0, g * kOut, kOut).any().item<bool>()) << "a group without rows has no gradient";
          continue;
        }
        EXPECT_TRUE(at::equal(y.narrow(0, first, n), matmul_nt(xs, w)));
        EXPECT_TRUE(at::equal(dx.narrow(0, first, n), matmul_nn(ds, w)));
        EXPECT_TRUE(at::equal(dw.narrow(0, g * kOut, kOut), matmul_tn(ds, xs)));
        at::Tensor expected_y = ds.clone(), expected_dx = xs.clone();
        add_matmul_(expected_y, xs, w.t(), 0.5);
        add_matmul_(expected_dx, ds, w, 1.0);
        EXPECT_TRUE(at::equal(y_added.narrow(0, first, n), expected_y));
        EXPECT_TRUE(at::equal(dx_added.narrow(0, first, n), expected_dx));
      }
    }
}

TEST_F(GroupedMatmul, WithoutGroupsIsThePlainProduct) {
  const at::Tensor x = random({33, 16}, at::kFloat), weight = random({8, 16}, at::kFloat);
  EXPECT_TRUE(at::equal(grouped_matmul_nt(x, weight, {}), matmul_nt(x, weight)));
}

TEST_F(GroupedMatmul, GroupsThatMissRowsAreABug) {
  EXPECT_ANY_THROW(grouped_matmul_nt(random({3, 16}, at::kFloat), random({16, 16}, at::kFloat), groups_of({1, 1})));
}

}  // namespace
}  // namespace tune
