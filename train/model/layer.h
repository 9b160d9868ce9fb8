#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "checkpoints/huggingface/model_config.h"
#include "train/kernels/attention.h"
#include "train/model/linear.h"
#include "train/model/mlp.h"
#include "train/model/sequence.h"

namespace tune {

/// What one layer's backward needs from its forward. Element sizes and shapes decide the memory plan
/// (train/plan/memory.cpp): change both together.
struct LayerTape {
  at::Tensor input, inv_rms_1, qkv_down, qkv, o_down, middle, inv_rms_2;
  AttentionResult attention;
  MlpTape mlp;
};

/// One pre-norm block: x + attention(norm(x)), then x + mlp(norm(x)).
class Layer {
 public:
  Layer(const ModelConfig& config, std::int64_t index, const DecoderOptions& options);

  /// x [tokens, hidden] -> [tokens, hidden]; x itself stays as it is. tape may be null.
  at::Tensor forward(const at::Tensor& x, const Sequence& sequence, LayerTape* tape) const;

  /// d_y is overwritten by d_x and returned; undefined unless want_d_x. Empties the tape as it goes.
  at::Tensor backward(at::Tensor d_y, const Sequence& sequence, LayerTape& tape, bool want_d_x);

  /// The same for the next tokens of a growing sequence; cache [tokens, 2 * kv_heads * head_dim] grows.
  at::Tensor forward_cached(const at::Tensor& x, const Sequence& sequence, at::Tensor& cache) const;

  /// The first module, in forward order, whose output overflows, and how large it grew: "model.layers.3.mlp.up_proj
  /// (largest value inf)". tape and y are a forward's; "" where all is well.
  std::string first_overflow(const LayerTape& tape, const at::Tensor& y) const;

  void append_parameters(std::vector<Parameter>& parameters);
  void train_weights(const DecoderOptions& options, bool kept);  // kept: as LinearGroup has it

  /// All weights, in a fixed order, and beside each its gradient, undefined where it is frozen.
  std::vector<std::pair<at::Tensor, at::Tensor>> weights_and_gradients();

  std::vector<LinearGroup*> groups();          // in model order
  at::Tensor input_norm, post_attention_norm;  // [hidden]

 private:
  std::int64_t index_;
  double eps_;
  AttentionShape shape_;
  std::string prefix_;
  LinearGroup qkv_, o_;
  Mlp mlp_;
  at::Tensor input_norm_master_, post_attention_norm_master_;  // full fine-tuning only
  at::Tensor input_norm_gradient_, post_attention_norm_gradient_;
};

}  // namespace tune
