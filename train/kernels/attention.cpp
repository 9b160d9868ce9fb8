#include "train/kernels/attention.h"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "recipes/schema/error.h"
#include "train/kernels/attention_cpu.h"
#include "train/kernels/cuda.h"

namespace tune {
namespace {

void check(const at::Tensor& qkv, const std::vector<std::int32_t>& document_starts, const AttentionShape& shape) {
  TUNE_CHECK(shape.kv_heads > 0 && shape.query_heads % shape.kv_heads == 0 && shape.head_dim > 0 && shape.window >= 0,
             "{} query heads, {} kv heads, head_dim {}, window {}", shape.query_heads, shape.kv_heads, shape.head_dim,
             shape.window);
  TUNE_CHECK(
      qkv.dim() == 2 && qkv.is_contiguous() && qkv.size(1) == (shape.query_heads + 2 * shape.kv_heads) * shape.head_dim,
      "qkv is not a contiguous [tokens, {}]", (shape.query_heads + 2 * shape.kv_heads) * shape.head_dim);
  TUNE_CHECK(!document_starts.empty() && document_starts.front() == 0 && document_starts.back() == qkv.size(0),
             "document_starts do not run from 0 to {}", qkv.size(0));
}

// [length, length] bool: may query i see key j?
at::Tensor visible(std::int64_t length, std::int64_t window, const at::Device& device) {
  const at::Tensor index = at::arange(length, at::TensorOptions(at::kLong).device(device));
  const at::Tensor distance = index.unsqueeze(1) - index.unsqueeze(0);
  const at::Tensor causal = distance >= 0;
  return window > 0 ? causal & (distance < window) : causal;
}

}  // namespace

AttentionResult attention(const at::Tensor& qkv, const std::vector<std::int32_t>& document_starts,
                          const AttentionShape& shape) {
  check(qkv, document_starts, shape);
  return qkv.is_cuda() ? cuda::attention(qkv, document_starts, shape) : attention_cpu(qkv, document_starts, shape);
}

at::Tensor attention_backward(const at::Tensor& d_out, const at::Tensor& qkv, const AttentionResult& forward,
                              const std::vector<std::int32_t>& document_starts, const AttentionShape& shape) {
  check(qkv, document_starts, shape);
  TUNE_CHECK(d_out.sizes() == forward.out.sizes() && d_out.is_contiguous() && d_out.scalar_type() == qkv.scalar_type(),
             "d_out is not like out");
  return qkv.is_cuda() ? cuda::attention_backward(d_out, qkv, forward, document_starts, shape)
                       : attention_backward_cpu(d_out, qkv, forward, document_starts, shape);
}

at::Tensor attention_reference(const at::Tensor& qkv, const std::vector<std::int32_t>& document_starts,
                               const AttentionShape& shape) {
  const std::int64_t group = shape.query_heads / shape.kv_heads;
  const double scale = 1.0 / std::sqrt(static_cast<double>(shape.head_dim));
  std::vector<at::Tensor> outs;
  for (std::size_t i = 0; i + 1 < document_starts.size(); ++i) {
    const std::int64_t length = document_starts[i + 1] - document_starts[i];
    const at::Tensor heads = qkv.narrow(0, document_starts[i], length)
                                 .view({length, shape.query_heads + 2 * shape.kv_heads, shape.head_dim})
                                 .transpose(0, 1);
    const at::Tensor q = heads.narrow(0, 0, shape.query_heads);
    const at::Tensor k = heads.narrow(0, shape.query_heads, shape.kv_heads).repeat_interleave(group, 0);
    const at::Tensor v =
        heads.narrow(0, shape.query_heads + shape.kv_heads, shape.kv_heads).repeat_interleave(group, 0);
    const at::Tensor hidden = visible(length, shape.window, qkv.device()).logical_not();
    const at::Tensor scores =
        at::matmul(q, k.transpose(1, 2)).to(at::promote_types(qkv.scalar_type(), at::kFloat)).mul(scale);
    const at::Tensor weights =
        at::softmax(scores.masked_fill(hidden, -std::numeric_limits<float>::infinity()), -1).to(qkv.scalar_type());
    outs.push_back(at::matmul(weights, v).transpose(0, 1).reshape({length, shape.query_heads * shape.head_dim}));
  }
  return at::cat(outs);
}

}  // namespace tune
