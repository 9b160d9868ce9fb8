#pragma once
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>

namespace tune {

/// Seeds ATen's generator with a number that a failing test prints; TUNE_TEST_SEED repeats a run.
class KernelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* fixed = std::getenv("TUNE_TEST_SEED");
    seed_ = fixed != nullptr ? std::stoull(fixed) : std::random_device()();
    at::manual_seed(seed_);
  }
  void TearDown() override {
    if (HasFailure()) std::printf("repeat with TUNE_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed_));
  }

 private:
  std::uint64_t seed_ = 0;
};

/// Half the distance between neighbours of 1: the relative error of one rounding.
inline double unit_roundoff(at::ScalarType type) {
  return type == at::kFloat ? 0x1p-24 : type == at::kHalf ? 0x1p-11 : 0x1p-8;
}

/// What the kernels compute in.
constexpr at::ScalarType kTypes[] = {at::kFloat, at::kBFloat16, at::kHalf};

/// |actual - expected| <= bound, element by element; bound is a number or a tensor. NaN fails. Numbers of fp16 below
/// 2^-14 are 2^-24 apart however small they are: a few roundings to such are allowed beside the bound.
inline void expect_within(const at::Tensor& actual, const at::Tensor& expected, const at::Tensor& bound,
                          const std::string& what) {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  const at::Tensor error = (actual.to(at::kDouble) - expected.to(at::kDouble)).abs();
  const at::Tensor within = error.le(bound.to(at::kDouble) + (actual.scalar_type() == at::kHalf ? 0x1p-22 : 0.0));
  EXPECT_TRUE(within.all().item<bool>()) << what << ": error up to " << error.max().item<double>() << ", "
                                         << within.logical_not().sum().item<std::int64_t>() << " of " << error.numel()
                                         << " values beyond their bound";
}
inline void expect_within(const at::Tensor& actual, const at::Tensor& expected, double bound, const std::string& what) {
  expect_within(actual, expected, at::full({}, bound, at::kDouble), what);
}

/// A leaf of an autograd graph with the values of x, widened.
inline at::Tensor leaf(const at::Tensor& x, at::ScalarType type) {
  return x.detach().to(type, false, true).set_requires_grad(true);
}

/// Random values that `type` can hold.
inline at::Tensor random(at::IntArrayRef shape, at::ScalarType type) { return at::randn(shape).to(type); }

}  // namespace tune
