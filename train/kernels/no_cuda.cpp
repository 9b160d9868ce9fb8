#include "recipes/schema/error.h"
#include "train/kernels/cuda.h"

namespace tune::cuda {
namespace {

[[noreturn]] void refuse() {
  throw Error(Fault::running, {}, "a tensor is on a CUDA device, but this program was built without CUDA",
              "build with -DTUNE_CUDA=ON, or train on the CPU");
}

}  // namespace

RmsNormResult rms_norm(const at::Tensor&, const at::Tensor&, double) { refuse(); }
RmsNormResult add_rms_norm_(at::Tensor&, const at::Tensor&, const at::Tensor&, double) { refuse(); }
void rms_norm_backward_add_(at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                            const at::Tensor&) {
  refuse();
}
at::Tensor rms_norm_recompute(const at::Tensor&, const at::Tensor&, const at::Tensor&) { refuse(); }
void rope_(at::Tensor&, std::int64_t, std::int64_t, const at::Tensor&, const RopeTable&, bool) { refuse(); }
at::Tensor swiglu(const at::Tensor&) { refuse(); }
void swiglu_backward_(at::Tensor&, const at::Tensor&) { refuse(); }
at::Tensor cross_entropy_(at::Tensor&, const at::Tensor&, double, bool) { refuse(); }
AttentionResult attention(const at::Tensor&, const std::vector<std::int32_t>&, const AttentionShape&) { refuse(); }
at::Tensor attention_backward(const at::Tensor&, const at::Tensor&, const AttentionResult&,
                              const std::vector<std::int32_t>&, const AttentionShape&) {
  refuse();
}
void nf4_dequantize(at::Tensor&, const at::Tensor&, std::int64_t, std::int64_t, std::int64_t, std::int64_t) {
  refuse();
}
Fp8Rows fp8_quantize(const at::Tensor&, const at::Tensor&) { refuse(); }
at::Tensor transpose_bytes(const at::Tensor&) { refuse(); }
void adamw_8bit_(at::Tensor&, const at::Tensor&, Moments8bit&, const AdamWStep&) { refuse(); }
void stochastic_round_(at::Tensor&, const at::Tensor&, std::uint64_t, std::int64_t) { refuse(); }
DeviceFacts device_facts(const at::Device&) { refuse(); }
void use_device(const at::Device&) { refuse(); }
at::Tensor pinned_bytes(std::int64_t) { refuse(); }

}  // namespace tune::cuda
