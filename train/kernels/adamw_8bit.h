#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace tune {

/// The moments of a tensor in 8 bits (Dettmers et al. 2022): blocks of 256 values, of each the largest magnitude, and
/// codes of the values divided by it in the dynamic map (checkpoints/quantize/dynamic_map.h), with a sign for the first
/// moment, without one for the second. Zeros to begin with.
struct Moments8bit {
  at::Tensor codes_1, codes_2;      // [values] uint8
  at::Tensor largest_1, largest_2;  // [ceil(values / 256)] fp32
};
Moments8bit make_moments_8bit(const at::Tensor& master);

struct AdamWStep {
  double learning_rate = 0, beta_1 = 0, beta_2 = 0, epsilon = 0, weight_decay = 0;
  std::int64_t step = 1;  // counted from 1
};

/// What a step multiplies with, rounded to fp32 once.
struct AdamWFactors {
  explicit AdamWFactors(const AdamWStep& step);
  float beta_1, rest_1, beta_2, rest_2;  // rest: 1 - beta
  float inverse_root_2;                  // 1 / sqrt(1 - beta_2^step)
  float epsilon;
  float shrink;  // 1 - learning rate * weight decay
  float rate;    // learning rate / (1 - beta_1^step)
};

/// One step of AdamW (Loshchilov & Hutter 2019) in fp32, a block at a time: moments out of their codes, the update, and
/// back into codes, the nearest ones. master and gradient [values] fp32, contiguous, on the moments' device.
void adamw_8bit_(at::Tensor& master, const at::Tensor& gradient, Moments8bit& moments, const AdamWStep& step);

}  // namespace tune
