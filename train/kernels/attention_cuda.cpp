#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>
#include <cmath>

#include "train/kernels/cuda.h"
#include "train/kernels/upload.h"

// ATen's own kernels, which know packed documents: FlashAttention-2 in bf16 and fp16, CUTLASS's memory-efficient
// attention in fp32 (its products are three TF32 ones, as good as fp32), for heads wider than FlashAttention takes and
// on cards that are too old for it. Their backward adds atomically unless ATen's deterministic algorithms are asked for
// (train/device.h, use_exact_kernels).

namespace tune::cuda {
namespace {

constexpr std::int64_t kWidestFlashHead = 256;
constexpr std::int64_t kCausal = 1;  // sdp::CustomMaskType::CausalFromTopLeft

// document_starts on the device, without empty documents.
struct Documents {
  std::vector<std::int32_t> host;
  at::Tensor starts;
  std::int64_t longest = 0;
};

// All layers of a batch ask with the same starts: they are uploaded once.
const Documents& documents_on(const at::Device& device, const std::vector<std::int32_t>& document_starts) {
  thread_local Documents last;
  if (last.starts.defined() && last.starts.device() == device && last.host == document_starts) return last;
  std::vector<std::int32_t> starts(document_starts);
  starts.erase(std::unique(starts.begin(), starts.end()), starts.end());
  std::int64_t longest = 0;
  for (std::size_t i = 0; i + 1 < starts.size(); ++i)
    longest = std::max<std::int64_t>(longest, starts[i + 1] - starts[i]);
  last = {document_starts, upload(starts, device), longest};
  return last;
}

// [tokens, heads, head_dim]; the kernels want whole 16-byte words in a head, zeros fill the last one up.
at::Tensor padded(const at::Tensor& heads) {
  const std::int64_t missing = (8 - heads.size(2) % 8) % 8;
  return missing == 0 ? heads : at::constant_pad_nd(heads, {0, missing});
}

// [tokens, heads, padded] -> [tokens, heads * head_dim]
at::Tensor unpadded(const at::Tensor& heads, std::int64_t head_dim) {
  return heads.narrow(2, 0, head_dim).reshape({heads.size(0), heads.size(1) * head_dim});
}

struct Heads {
  at::Tensor q, k, v;
};

Heads split(const at::Tensor& qkv, const AttentionShape& shape) {
  const at::Tensor heads = qkv.view({qkv.size(0), shape.query_heads + 2 * shape.kv_heads, shape.head_dim});
  return {padded(heads.narrow(1, 0, shape.query_heads)), padded(heads.narrow(1, shape.query_heads, shape.kv_heads)),
          padded(heads.narrow(1, shape.query_heads + shape.kv_heads, shape.kv_heads))};
}

double scale_of(const AttentionShape& shape) { return 1.0 / std::sqrt(static_cast<double>(shape.head_dim)); }

bool flash(const at::Tensor& qkv, const AttentionShape& shape) {
  if (qkv.scalar_type() == at::kFloat || shape.head_dim > kWidestFlashHead) return false;
  return at::cuda::getDeviceProperties(qkv.device().index())->major >= 8;  // Ampere
}

struct FlashWindow {
  std::optional<std::int64_t> left, right;  // how many tokens before and after its own a query sees
};
FlashWindow flash_window(const AttentionShape& shape) {
  if (shape.window == 0) return {};
  return {shape.window - 1, 0};
}

// The memory-efficient kernel counts the query itself, as we do.
std::optional<std::int64_t> efficient_window(const AttentionShape& shape) {
  return shape.window > 0 ? std::optional(shape.window) : std::nullopt;
}

// It has as many key heads as query heads: each is repeated for its group. -> [1, tokens, query_heads, head_dim]
at::Tensor repeated(const at::Tensor& kv, const AttentionShape& shape) {
  const std::int64_t group = shape.query_heads / shape.kv_heads;
  if (group == 1) return kv.unsqueeze(0);
  return kv.unsqueeze(2).expand({-1, -1, group, -1}).reshape({1, kv.size(0), shape.query_heads, kv.size(2)});
}

at::Tensor summed(const at::Tensor& d_repeated, const AttentionShape& shape) {
  const at::Tensor d = d_repeated.squeeze(0);
  const std::int64_t group = shape.query_heads / shape.kv_heads;
  return group == 1 ? d : d.view({d.size(0), shape.kv_heads, group, d.size(2)}).sum(2);
}

}  // namespace

AttentionResult attention(const at::Tensor& qkv, const std::vector<std::int32_t>& document_starts,
                          const AttentionShape& shape) {
  const c10::cuda::CUDAGuard guard(qkv.device());
  if (qkv.size(0) == 0)
    return {at::empty({0, shape.query_heads * shape.head_dim}, qkv.options()),
            at::empty({shape.query_heads, 0}, qkv.options().dtype(at::kFloat))};
  const auto& [host, starts, longest] = documents_on(qkv.device(), document_starts);
  const Heads heads = split(qkv, shape);
  if (flash(qkv, shape)) {
    const FlashWindow window = flash_window(shape);
    const auto [out, log_sum_exp, rng_state, unused, mask] = at::_flash_attention_forward(
        heads.q, heads.k, heads.v, starts, starts, longest, longest, /*dropout_p=*/0.0, /*is_causal=*/true,
        /*return_debug_mask=*/false, scale_of(shape), window.left, window.right);
    return {unpadded(out, shape.head_dim), log_sum_exp};
  }
  const auto [out, log_sum_exp, seed, offset, longest_q, longest_k] =
      at::_efficient_attention_forward(heads.q.unsqueeze(0), repeated(heads.k, shape), repeated(heads.v, shape),
                                       /*bias=*/{}, starts, starts, longest, longest,
                                       /*dropout_p=*/0.0, kCausal, /*compute_log_sumexp=*/true, scale_of(shape),
                                       /*seqlen_k=*/{}, efficient_window(shape));
  return {unpadded(out.squeeze(0), shape.head_dim), log_sum_exp};
}

at::Tensor attention_backward(const at::Tensor& d_out, const at::Tensor& qkv, const AttentionResult& forward,
                              const std::vector<std::int32_t>& document_starts, const AttentionShape& shape) {
  const c10::cuda::CUDAGuard guard(qkv.device());
  if (qkv.size(0) == 0) return at::empty_like(qkv);
  const auto& [host, starts, longest] = documents_on(qkv.device(), document_starts);
  const Heads heads = split(qkv, shape);
  const at::Tensor out = padded(forward.out.view({qkv.size(0), shape.query_heads, shape.head_dim}));
  const at::Tensor d = padded(d_out.view({qkv.size(0), shape.query_heads, shape.head_dim}));
  at::Tensor d_q, d_k, d_v, d_bias;
  if (flash(qkv, shape)) {
    const FlashWindow window = flash_window(shape);
    std::tie(d_q, d_k, d_v) = at::_flash_attention_backward(
        d, heads.q, heads.k, heads.v, out, forward.log_sum_exp, starts, starts, longest, longest, /*dropout_p=*/0.0,
        /*is_causal=*/true, /*rng_state=*/{}, /*unused=*/{}, scale_of(shape), window.left, window.right);
  } else {
    std::tie(d_q, d_k, d_v, d_bias) = at::_efficient_attention_backward(
        d.unsqueeze(0), heads.q.unsqueeze(0), repeated(heads.k, shape), repeated(heads.v, shape), /*bias=*/{},
        out.unsqueeze(0), starts, starts, longest, longest, forward.log_sum_exp, /*dropout_p=*/0.0, /*philox_seed=*/{},
        /*philox_offset=*/{}, kCausal, /*bias_requires_grad=*/false, scale_of(shape), /*num_splits_key=*/std::nullopt,
        efficient_window(shape));
    d_q = d_q.squeeze(0), d_k = summed(d_k, shape), d_v = summed(d_v, shape);
  }
  return at::cat({unpadded(d_q, shape.head_dim), unpadded(d_k, shape.head_dim), unpadded(d_v, shape.head_dim)}, 1);
}

}  // namespace tune::cuda
