#pragma once
#include <ATen/core/Tensor.h>

namespace tune {

/// silu(gate) * up (Shazeer 2020).
///   gate_up  [tokens, 2 * intermediate]  fp32, bf16 or fp16, contiguous: gate's columns first, then up's
///   returns  [tokens, intermediate]
at::Tensor swiglu(const at::Tensor& gate_up);

/// Overwrites gate_up with its own gradient. d_y [tokens, intermediate].
void swiglu_backward_(at::Tensor& gate_up, const at::Tensor& d_y);

/// Plain differentiable ATen, the oracle of the tests; fp64 stays fp64.
at::Tensor swiglu_reference(const at::Tensor& gate_up);

}  // namespace tune
