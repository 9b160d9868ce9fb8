#pragma once
#include <ATen/core/Tensor.h>

namespace tune {

/// y = x / sqrt(mean(x^2) + eps) * weight over the last axis. Zhang & Sennrich 2019, section 3.
///   x       [tokens, hidden]  fp32, bf16 or fp16, contiguous, CPU or CUDA
///   weight  [hidden]          dtype and device of x
///   returns y [tokens, hidden] in x's dtype: mean in fp32, x * inv_rms rounded to x's dtype, then times weight, as
///   transformers' LlamaRMSNorm does. inv_rms [tokens] fp32 is what the backward needs.
/// Bug on any other shape, dtype or device. Thread-safe. Twin: rms_norm_reference.
struct RmsNormResult {
  at::Tensor y, inv_rms;
};
RmsNormResult rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

/// residual += delta in place (both [tokens, hidden]), then rms_norm(residual): one pass over memory instead of two.
RmsNormResult add_rms_norm_(at::Tensor& residual, const at::Tensor& delta, const at::Tensor& weight, double eps);

/// dx += d rms_norm / dx applied to dy; dx [tokens, hidden] holds the residual stream's gradient already.
/// d_weight [hidden] fp32 is added to where it is defined (full fine-tuning), else skipped.
void rms_norm_backward_add_(at::Tensor& dx, const at::Tensor& dy, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& inv_rms, at::Tensor d_weight);

/// y again from what the forward saved, for backward passes that did not keep it.
at::Tensor rms_norm_recompute(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& inv_rms);

/// Plain differentiable ATen, the oracle of the tests; fp64 stays fp64.
at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& weight, double eps);

}  // namespace tune
