#pragma once
#include <ATen/core/Tensor.h>

namespace tune {

/// Rotary embedding (Su et al. 2021), Hugging Face's half-split form: pairs are (j, j + head_dim/2).
struct RopeTable {
  at::Tensor cosine, sine;  // [positions, head_dim/2] fp32
};
/// inverse frequency j = theta^(-2j/head_dim). Grown on demand by the caller; row p does not depend on the size.
RopeTable make_rope_table(std::int64_t positions, std::int64_t head_dim, double theta, const at::Device& device);

/// Rotates in place the first `heads` heads of each row.
///   x          [tokens, >= heads * head_dim]  fp32, bf16 or fp16, last axis contiguous, any row stride
///   positions  [tokens] int32
///   inverse    rotate backwards: the gradient of the rotation
/// Angles, products and the sum in fp32, rounded once to x's dtype.
void rope_(at::Tensor x, std::int64_t heads, std::int64_t head_dim, const at::Tensor& positions, const RopeTable& table,
           bool inverse);

/// Plain differentiable ATen, the oracle of the tests; fp64 stays fp64. x [tokens, heads * head_dim].
at::Tensor rope_reference(const at::Tensor& x, std::int64_t heads, std::int64_t head_dim, const at::Tensor& positions,
                          double theta);

}  // namespace tune
