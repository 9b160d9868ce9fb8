#include "train/optim/clip.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <algorithm>
#include <cmath>

namespace tune {

double clip_gradients(std::vector<Parameter>& parameters, double max_norm) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  std::vector<at::Tensor> gradients;
  for (const Parameter& parameter : parameters) gradients.push_back(parameter.gradient);
  const std::vector<at::Tensor> norms = at::_foreach_norm(gradients, 2.0);
  const double norm = at::linalg_vector_norm(at::stack(norms).to(at::kDouble)).item<double>();
  // PyTorch's clip_grad_norm_ adds this epsilon as well
  if (max_norm > 0 && norm > max_norm && std::isfinite(norm)) at::_foreach_mul_(gradients, max_norm / (norm + 1e-6));
  return norm;
}

std::string first_non_finite(const std::vector<Parameter>& parameters) {
  const auto bad = std::find_if(parameters.rbegin(), parameters.rend(), [](const Parameter& parameter) {
    return !at::isfinite(parameter.gradient).all().item<bool>();
  });
  return bad == parameters.rend() ? "" : bad->name;
}

}  // namespace tune
