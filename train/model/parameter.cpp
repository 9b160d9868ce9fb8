#include "train/model/parameter.h"

#include <ATen/ATen.h>

namespace tune {

at::Tensor stored(const Parameter& parameter) {
  at::Tensor master = parameter.master.cpu().contiguous();
  if (!parameter.frozen.defined()) return master;
  return at::cat({master, parameter.frozen.cpu().to(at::kFloat)}, parameter.frozen_dimension);
}

std::vector<std::int64_t> stored_shape(const Parameter& parameter) {
  std::vector<std::int64_t> shape = parameter.master.sizes().vec();
  if (parameter.frozen.defined())
    shape[static_cast<std::size_t>(parameter.frozen_dimension)] += parameter.frozen.size(parameter.frozen_dimension);
  return shape;
}

void restore(Parameter& parameter, const at::Tensor& stored) {
  if (!parameter.frozen.defined()) {
    parameter.master.copy_(stored);
  } else {
    const std::int64_t dimension = parameter.frozen_dimension, trained = parameter.master.size(dimension);
    parameter.master.copy_(stored.narrow(dimension, 0, trained));
    parameter.frozen.copy_(stored.narrow(dimension, trained, stored.size(dimension) - trained));
  }
  if (!parameter.value.is_same(parameter.master)) parameter.value.copy_(parameter.master);
}

}  // namespace tune
