#pragma once
#include <ATen/core/Tensor.h>

#include <string>

namespace tune {

/// Largest magnitude in t, any dtype; NaN where it holds one, 0 where it is empty.
double largest_value(const at::Tensor& t);

/// Whether arithmetic ends with such a value: NaN, infinity, or so large that its square is infinite in fp32, which the
/// next normalisation turns into zeros.
bool overflows(double value);

/// "model.layers.3.mlp.up_proj (largest value inf)" where `values` overflow, "" else.
std::string overflow_of(const std::string& name, const at::Tensor& values);

/// "nan", "inf" or the number: NaN has no sign worth printing.
std::string number_text(double value);

}  // namespace tune
