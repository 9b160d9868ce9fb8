#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace tune {

/// One trained tensor. `value` is what the forward reads; where that is not fp32 the optimizer works on `master` and
/// value is rounded from it after each step. It may be a slice of a tensor: parallel/sharded_weights.h. gradient [as
/// value] fp32, summed over micro-batches, zero after a step; model/unit_gradients.h gives it memory for a while only.
struct Parameter {
  std::string name;   // PEFT's key for adapters ("base_model.model.….lora_A.weight"), the Hugging Face name else
  at::Tensor value;   // may be a strided view
  at::Tensor master;  // fp32, contiguous; the very same tensor as value where that is so, or with bf16_stochastic_round
  at::Tensor gradient;
  bool decays = true;     // false for norms: weight decay leaves them alone
  double rate_scale = 1;  // its learning rate is so many times that of the schedule
  /// PiSSA: what is multiplied like value and not trained. It is stored behind value, along that dimension.
  at::Tensor frozen;
  std::int64_t frozen_dimension = 0;
};

/// A parameter as checkpoints and adapters have it, of the master's type, in the host's memory; the master's own memory
/// where possible.
at::Tensor stored(const Parameter& parameter);
std::vector<std::int64_t> stored_shape(const Parameter& parameter);
void restore(Parameter& parameter, const at::Tensor& stored);

}  // namespace tune
