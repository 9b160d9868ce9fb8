#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoints/huggingface/model_config.h"
#include "train/kernels/attention.h"
#include "train/kernels/rope.h"
#include "train/model/linear.h"

namespace tune {

/// What a layer has to know of a micro-batch besides the hidden states.
struct Sequence {
  at::Tensor positions;  // [tokens] int32
  std::vector<std::int32_t> document_starts;
  RopeTable rope;
  bool adapter_on = true;
  double dropout = 0;
  std::uint64_t dropout_seed = 0;  // of (seed, step, micro-batch)
};

/// What one layer's backward needs from its forward. Element sizes and shapes decide the memory plan
/// (train/plan/memory.cpp): change both together.
struct LayerTape {
  at::Tensor input, inv_rms_1, qkv_down, qkv, o_down, middle, inv_rms_2, gate_up_down, gate_up, down_down;
  AttentionResult attention;
};

/// One pre-norm block: x + attention(norm(x)), then x + swiglu_mlp(norm(x)).
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
  void train_weights();

  LinearGroup qkv, o, gate_up, down;
  at::Tensor input_norm, post_attention_norm;  // [hidden]

 private:
  at::Tensor mlp(const at::Tensor& normed, const Sequence& sequence, LayerTape* tape) const;
  DropoutKey dropout_key(const Sequence& sequence, std::uint64_t group) const;

  std::int64_t index_;
  double eps_;
  AttentionShape shape_;
  std::string prefix_;
  at::Tensor input_norm_master_, post_attention_norm_master_;  // full fine-tuning only
  at::Tensor input_norm_gradient_, post_attention_norm_gradient_;
};

}  // namespace tune
