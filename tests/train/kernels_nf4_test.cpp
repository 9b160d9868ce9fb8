#include "train/kernels/nf4.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "checkpoints/quantize/nf4.h"
#include "train/kernels/matmul.h"
#include "train/plan/memory.h"

namespace tune {
namespace {

Nf4Matrices random_matrices(const std::vector<std::int64_t>& rows, std::int64_t columns) {
  at::manual_seed(5);
  Nf4Matrices made = make_nf4_matrices(rows, columns, at::kCPU);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const at::Tensor values = at::randn({rows[i], columns});
    const std::int64_t count = values.numel();
    Nf4Quantizer quantizer(count, {static_cast<std::byte*>(made.bytes.mutable_data_ptr()) + made.matrices[i].first_byte,
                                   static_cast<std::size_t>(Nf4Layout(count).bytes)});
    quantizer.add({values.const_data_ptr<float>(), static_cast<std::size_t>(count)});
    quantizer.finish();
  }
  return made;
}

at::Tensor dense(const Nf4Matrices& weight, at::ScalarType dtype) {
  return nf4_dequantize(weight, {.rows = weight.rows(), .columns = weight.columns}, dtype);
}

void expect_products_of_dense_weights(const std::vector<std::int64_t>& rows, std::int64_t columns, at::ScalarType dtype,
                                      const RowGroups& groups = {}, std::int64_t tokens = 9) {
  const Nf4Matrices weight = random_matrices(rows, columns);
  const at::Tensor whole = dense(weight, dtype), x = at::randn({tokens, columns}).to(dtype),
                   dy = at::randn({tokens, weight.rows() / groups.count()}).to(dtype);
  // the tiles' widths decide in which order a product's terms are added
  const double tolerance = dtype == at::kFloat ? 1e-4 : 2e-2;
  EXPECT_TRUE(
      at::allclose(nf4_matmul_nt(x, weight, groups), grouped_matmul_nt(x, whole, groups), tolerance, tolerance));
  EXPECT_TRUE(
      at::allclose(nf4_matmul_nn(dy, weight, groups), grouped_matmul_nn(dy, whole, groups), tolerance, tolerance));
}

TEST(Nf4Products, AreThoseOfTheDequantisedWeights) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    expect_products_of_dense_weights({64}, 64, dtype);
    expect_products_of_dense_weights({24, 8, 8}, 48, dtype);  // blocks go over the ends of rows
    expect_products_of_dense_weights({5, 3}, 7, dtype);
  }
}

TEST(Nf4Products, AreTiledWhereTheWeightIsLarge) {
  const std::int64_t columns = 2048, rows = kNf4TileBytes / (columns * 2) + 200;
  expect_products_of_dense_weights({rows, 64}, columns, at::kBFloat16);
  expect_products_of_dense_weights({64, 72}, kNf4TileBytes / 2 / 100, at::kBFloat16);
}

TEST(Nf4Products, EachGroupHasItsOwnMatrices) {
  const RowGroups groups{at::tensor({4, 4, 9}, at::kInt)};  // the second has no rows
  expect_products_of_dense_weights({16, 8, 16, 8, 16, 8}, 64, at::kFloat, groups);
}

TEST(Nf4Products, ValuesAreRoundedAsATenDoes) {
  const Nf4Matrices weight = random_matrices({24, 8, 8}, 50);
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf})
    EXPECT_TRUE(at::equal(dense(weight, dtype), dense(weight, at::kFloat).to(dtype))) << c10::toString(dtype);
}

TEST(Nf4Products, RectanglesAreCutOutOfTheWhole) {
  const Nf4Matrices weight = random_matrices({10, 6}, 80);
  const at::Tensor whole = dense(weight, at::kFloat);
  for (const Nf4Rectangle& r : {Nf4Rectangle{3, 9, 0, 80}, Nf4Rectangle{0, 16, 64, 16}, Nf4Rectangle{9, 2, 5, 70}})
    EXPECT_TRUE(nf4_dequantize(weight, r, at::kFloat)
                    .equal(whole.narrow(0, r.first_row, r.rows).narrow(1, r.first_column, r.columns)));
}

}  // namespace
}  // namespace tune
