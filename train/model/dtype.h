#pragma once
#include <ATen/TensorOptions.h>
#include <ATen/core/Tensor.h>

#include "train/model/decoder.h"

namespace tune {

inline at::ScalarType scalar_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::fp32:
      return at::kFloat;
    case Dtype::bf16:
      return at::kBFloat16;
    case Dtype::fp16:
      return at::kHalf;
  }
  return at::kFloat;
}

/// Where the decoder's tensors live and of what they are.
inline at::TensorOptions tensor_options(const DecoderOptions& options) {
  return at::TensorOptions().dtype(scalar_type(options.dtype)).device(at::Device(options.device));
}

/// What the optimizer works on (Parameter::master): the weight itself where that is fp32, or has no master.
inline at::Tensor make_master(const at::Tensor& weight, const DecoderOptions& options) {
  return options.bf16_stochastic_round ? weight : weight.to(at::kFloat);
}

}  // namespace tune
