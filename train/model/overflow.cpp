#include "train/model/overflow.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <limits>

namespace tune {

double largest_value(const at::Tensor& t) {
  if (t.numel() == 0) return 0;
  return t.abs().amax().to(at::kDouble).item<double>();  // amax hands a NaN on
}

bool overflows(double value) {
  static const double kLargest = std::sqrt(static_cast<double>(std::numeric_limits<float>::max()));
  return std::isnan(value) || std::abs(value) > kLargest;
}

std::string overflow_of(const std::string& name, const at::Tensor& values) {
  const double largest = largest_value(values);
  return overflows(largest) ? fmt::format("{} (largest value {})", name, number_text(largest)) : "";
}

std::string number_text(double value) { return std::isnan(value) ? "nan" : fmt::format("{:.6g}", value); }

}  // namespace tune
