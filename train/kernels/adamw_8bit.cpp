#include "train/kernels/adamw_8bit.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "checkpoints/cpu_clones.h"
#include "checkpoints/quantize/dynamic_map.h"
#include "recipes/schema/error.h"
#include "train/kernels/cuda.h"

namespace tune {
namespace {

struct Moment {
  std::uint8_t* codes;
  float* largest;
};

TUNE_INLINE void dequantize(const Moment& moment, const DynamicMap& map, std::int64_t count, float* values) {
  const float largest = *moment.largest;
  for (std::int64_t i = 0; i < count; ++i) values[i] = map.values[moment.codes[i]] * largest;
}

TUNE_INLINE void quantize(const Moment& moment, const DynamicMap& map, std::int64_t count, const float* values) {
  float largest = 0;
#pragma omp simd reduction(max : largest)
  for (std::int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(values[i]));
  *moment.largest = largest;
  const float inverse = 1.0f / std::max(largest, kLeastScale);
  for (std::int64_t i = 0; i < count; ++i) moment.codes[i] = map.nearest(std::clamp(values[i] * inverse, -1.0f, 1.0f));
}

TUNE_CPU_CLONES void update(float* master, const float* gradient, float* m, float* v, std::int64_t count,
                            const AdamWFactors& f) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) {
    const float g = gradient[i];
    m[i] = m[i] * f.beta_1 + g * f.rest_1;
    v[i] = v[i] * f.beta_2 + g * g * f.rest_2;
    master[i] = master[i] * f.shrink - f.rate * (m[i] / (std::sqrt(v[i]) * f.inverse_root_2 + f.epsilon));
  }
}

void update_block(float* master, const float* gradient, const Moment& first, const Moment& second, std::int64_t count,
                  const AdamWFactors& factors) {
  float m[kDynamicBlock], v[kDynamicBlock];
  dequantize(first, dynamic_map(true), count, m);
  dequantize(second, dynamic_map(false), count, v);
  update(master, gradient, m, v, count, factors);
  quantize(first, dynamic_map(true), count, m);
  quantize(second, dynamic_map(false), count, v);
}

float rounded(double value) { return static_cast<float>(value); }

}  // namespace

AdamWFactors::AdamWFactors(const AdamWStep& s)
    : beta_1(rounded(s.beta_1)),
      rest_1(rounded(1 - s.beta_1)),
      beta_2(rounded(s.beta_2)),
      rest_2(rounded(1 - s.beta_2)),
      inverse_root_2(rounded(1 / std::sqrt(1 - std::pow(s.beta_2, s.step)))),
      epsilon(rounded(s.epsilon)),
      shrink(rounded(1 - s.learning_rate * s.weight_decay)),
      rate(rounded(s.learning_rate / (1 - std::pow(s.beta_1, s.step)))) {}

Moments8bit make_moments_8bit(const at::Tensor& master) {
  const std::int64_t values = master.numel(), blocks = (values + kDynamicBlock - 1) / kDynamicBlock;
  const auto codes = master.options().dtype(at::kByte);
  // a code of zero: dynamic maps have exactly one value 0
  Moments8bit moments{at::full({values}, dynamic_map(true).nearest(0.0f), codes),
                      at::full({values}, dynamic_map(false).nearest(0.0f), codes)};
  moments.largest_1 = at::zeros({blocks}, master.options().dtype(at::kFloat));
  moments.largest_2 = at::zeros({blocks}, moments.largest_1.options());
  return moments;
}

void adamw_8bit_(at::Tensor& master, const at::Tensor& gradient, Moments8bit& moments, const AdamWStep& step) {
  TUNE_CHECK(master.scalar_type() == at::kFloat && gradient.scalar_type() == at::kFloat && master.is_contiguous() &&
                 gradient.is_contiguous() && master.numel() == gradient.numel() &&
                 master.numel() == moments.codes_1.numel(),
             "master and gradient are not contiguous fp32 of {} values", moments.codes_1.numel());
  if (master.is_cuda()) return cuda::adamw_8bit_(master, gradient, moments, step);
  const AdamWFactors factors(step);
  constexpr std::int64_t kBlocksPerTask = 64;
  const std::int64_t values = master.numel();
  at::parallel_for(0, moments.largest_1.numel(), kBlocksPerTask, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t first = block * kDynamicBlock;
      update_block(master.mutable_data_ptr<float>() + first, gradient.const_data_ptr<float>() + first,
                   {moments.codes_1.mutable_data_ptr<std::uint8_t>() + first,
                    moments.largest_1.mutable_data_ptr<float>() + block},
                   {moments.codes_2.mutable_data_ptr<std::uint8_t>() + first,
                    moments.largest_2.mutable_data_ptr<float>() + block},
                   std::min(kDynamicBlock, values - first), factors);
    }
  });
}

}  // namespace tune
