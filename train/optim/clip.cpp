#include "train/optim/clip.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <algorithm>
#include <cmath>

namespace tune {

double clip_gradients(std::vector<Parameter>& parameters, double max_norm,
                      const std::function<double(double)>& sum_over_ranks) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  std::vector<at::Tensor> gradients;
  for (const Parameter& parameter : parameters) gradients.push_back(parameter.gradient);
  double norm =
      gradients.empty()
          ? 0
          : at::linalg_vector_norm(at::stack(at::_foreach_norm(gradients, 2.0)).to(at::kDouble)).item<double>();
  if (sum_over_ranks) norm = std::sqrt(sum_over_ranks(norm * norm));
  // PyTorch's clip_grad_norm_ adds this epsilon as well
  if (max_norm > 0 && norm > max_norm && !gradients.empty() && std::isfinite(norm))
    at::_foreach_mul_(gradients, max_norm / (norm + 1e-6));
  return norm;
}

std::string first_non_finite(const std::vector<Parameter>& parameters) {
  const auto bad = std::find_if(parameters.rbegin(), parameters.rend(), [](const Parameter& parameter) {
    return !at::isfinite(parameter.gradient).all().item<bool>();
  });
  return bad == parameters.rend() ? "" : bad->name;
}

}  // namespace tune
