#include "train/optim/clip.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <algorithm>
#include <cmath>

namespace tune {

namespace {

std::vector<at::Tensor> gradients_of(std::span<const Parameter> parameters) {
  std::vector<at::Tensor> gradients;
  for (const Parameter& parameter : parameters) gradients.push_back(parameter.gradient);
  return gradients;
}

}  // namespace

double gradient_norm(std::span<const Parameter> parameters) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  if (parameters.empty()) return 0;
  const std::vector<at::Tensor> norms = at::_foreach_norm(gradients_of(parameters), 2.0);
  return at::linalg_vector_norm(at::stack(norms).to(at::kDouble)).item<double>();
}

double clip_gradients(std::vector<Parameter>& parameters, double max_norm,
                      const std::function<double(double)>& sum_over_ranks) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  double norm = gradient_norm(parameters);
  if (sum_over_ranks) norm = std::sqrt(sum_over_ranks(norm * norm));
  // PyTorch's clip_grad_norm_ adds this epsilon as well
  if (max_norm > 0 && norm > max_norm && !parameters.empty() && std::isfinite(norm))
    at::_foreach_mul_(gradients_of(parameters), max_norm / (norm + 1e-6));
  return norm;
}

std::string first_non_finite(std::span<const Parameter> parameters) {
  const auto bad = std::find_if(parameters.rbegin(), parameters.rend(), [](const Parameter& parameter) {
    return !at::isfinite(parameter.gradient).all().item<bool>();
  });
  return bad == parameters.rend() ? "" : bad->name;
}

}  // namespace tune
