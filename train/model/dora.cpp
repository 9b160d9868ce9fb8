#include "train/model/dora.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "train/model/dtype.h"

namespace tune {
namespace {

// Tokens at a time that are there in fp32.
constexpr std::int64_t kTokens = 256;

template <typename F>
void for_tokens(std::int64_t tokens, F&& f) {
  for (std::int64_t first = 0; first < tokens; first += kTokens) f(first, std::min(kTokens, tokens - first));
}

}  // namespace

Dora::Dora(const LoraGroup& lora, std::int64_t rows, const DecoderOptions& options) {
  if (lora.empty()) return;
  magnitude_ = at::ones({rows}, tensor_options(options).dtype(at::kFloat));
  if (options.training) gradient_ = at::zeros_like(magnitude_);
}

void Dora::start_at(const at::Tensor& squares) {
  squares_ = squares;
  magnitude_.copy_(squares.sqrt());
}

void Dora::measure(const LoraGroup& lora, const at::Tensor& a_w) {
  // |w + s b A|^2 = |w|^2 + 2 s b (A w) + s^2 b (A A^T) b^T: the weight itself is read for A w alone
  length_ = magnitude_.clone();
  for (std::size_t i = 0; i < lora.modules().size(); ++i) {
    const LoraModule& module = lora.modules()[i];
    const at::Tensor a = lora.a().narrow(0, module.first, module.rank).to(at::kFloat);
    const at::Tensor b = lora.b(i).to(at::kFloat);
    const at::Tensor inner =
        a_w.narrow(0, module.first, module.rank).narrow(1, module.first_row, module.rows).t().to(at::kFloat);
    const at::Tensor other =
        inner.mul(2 * module.scale).add_(at::matmul(b, at::matmul(a, a.t())), module.scale * module.scale);
    const at::Tensor square = squares_.narrow(0, module.first_row, module.rows) + (b * other).sum(1);
    length_.narrow(0, module.first_row, module.rows).copy_(square.clamp_min_(1e-30).sqrt_());
  }
}

void Dora::scale_(at::Tensor& y) const {
  const at::Tensor factor = magnitude_ / length_;
  for_tokens(y.size(0), [&](std::int64_t first, std::int64_t count) { y.narrow(0, first, count).mul_(factor); });
}

at::Tensor Dora::backward(const at::Tensor& d_y, const at::Tensor& y) {
  const at::Tensor factor = magnitude_ / length_;
  at::Tensor d_factor = at::zeros_like(factor), d = at::empty_like(d_y);
  for_tokens(y.size(0), [&](std::int64_t first, std::int64_t count) {
    const at::Tensor gradient = d_y.narrow(0, first, count).to(at::kFloat);
    d_factor.add_((gradient * y.narrow(0, first, count)).sum(0));
    d.narrow(0, first, count).copy_(gradient * factor);
  });
  gradient_.addcdiv_(d_factor, length_);
  return d;
}

void Dora::append_parameter(const LoraModule& module, std::vector<Parameter>& parameters) const {
  const at::Tensor rows = magnitude_.narrow(0, module.first_row, module.rows);
  parameters.push_back(
      {.name = "base_model.model." + module.name + ".lora_magnitude_vector",
       .value = rows,
       .master = rows,
       .gradient = gradient_.defined() ? gradient_.narrow(0, module.first_row, module.rows) : at::Tensor(),
       .decays = false});  // a length of zero is nothing to fall back to
}

}  // namespace tune
