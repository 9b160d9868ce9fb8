#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "train/model/lora.h"

namespace tune {

/// DoRA (Liu et al. 2024): each output of an adapted module is multiplied with m / |w + s b A|, where w + s b A is its
/// row of the tuned weight and m, the row's length, is trained. As the paper has it (section 4.3), the length below the
/// line gets no gradient.
class Dora {
 public:
  Dora() = default;
  Dora(const LoraGroup& lora, std::int64_t rows, const DecoderOptions& options);  // rows: of the group's weight

  bool empty() const { return !magnitude_.defined(); }
  bool measured() const { return length_.defined(); }

  /// squares [rows] fp32: sums of the squares of the base weight's rows. Each m begins at the root.
  void start_at(const at::Tensor& squares);

  /// The lengths, with the adapters as they are. a_w [width, rows]: lora.a() times the base weight transposed.
  void measure(const LoraGroup& lora, const at::Tensor& a_w);

  /// y [tokens, rows] of the base and the adapters.
  void scale_(at::Tensor& y) const;

  /// d_y: gradient of what scale_() left; y: what it was given. Adds to the gradients of m and returns that of y.
  at::Tensor backward(const at::Tensor& d_y, const at::Tensor& y);

  void append_parameter(const LoraModule& module, std::vector<Parameter>& parameters) const;

 private:
  at::Tensor squares_, length_;      // [rows] fp32; length_ is 1 where there is no adapter
  at::Tensor magnitude_, gradient_;  // [rows] fp32
};

}  // namespace tune
