#pragma once
#include <ATen/ATen.h>
#include <c10/cuda/CUDAFunctions.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <string>

#include "tests/train/kernels_judging.h"
#include "train/device.h"
#include "train/kernels/cuda.h"

namespace tune {

inline const at::Device kGpu(at::kCUDA, 0);
constexpr double kFloatRoundoff = 0x1p-24;

/// Skipped where there is no GPU. A line a test (name, result, seconds, figures) goes to the file TUNE_GPU_TABLE names:
/// run.sh's.
class GpuTest : public KernelTest {
 protected:
  void SetUp() override {
    if (c10::cuda::device_count() == 0) GTEST_SKIP() << "no CUDA device";
    KernelTest::SetUp();
    use_exact_kernels("cuda:0", true);
  }

  void TearDown() override {
    KernelTest::TearDown();
    const char* path = std::getenv("TUNE_GPU_TABLE");
    if (path == nullptr) return;
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start_;
    std::ofstream(path, std::ios::app) << fmt::format("{}.{}\t{}\t{:.1f}\t{}\n", info->test_suite_name(), info->name(),
                                                      HasFailure() ? "failed" : (IsSkipped() ? "skipped" : "passed"),
                                                      seconds.count(),
                                                      IsSkipped() && figures_.empty() ? "no CUDA device" : figures_);
  }

  /// Keeps the largest of what was measured against what was allowed.
  void expect_close(const at::Tensor& actual, const at::Tensor& expected, const at::Tensor& bound,
                    const std::string& what) {
    const at::Tensor host = actual.cpu();
    expect_within(host, expected, bound, what);
    const at::Tensor error = (host.to(at::kDouble) - expected.to(at::kDouble)).abs();
    worst_ = std::max(worst_, (error / (bound.to(at::kDouble) + 1e-300)).max().item<double>());
    figures_ = fmt::format("error up to {:.2f} of the bound", worst_);
  }

  /// Whether the device is none for products in fp8, which the table says then.
  bool lacks_fp8() {
    if (cuda::device_facts(kGpu).capability / 10 == 9) return false;
    figures_ = "products in fp8 are for compute capability 9.0";
    return true;
  }

  std::string figures_;

 private:
  double worst_ = 0;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace tune
