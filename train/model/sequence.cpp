#include "train/model/sequence.h"

#include <ATen/ATen.h>

namespace tune {

// A prompt's row gets its two copies' gradients; two numbers have one sum in whatever order.
at::Tensor Sequence::sum_from_attended(const at::Tensor& gradient) const {
  if (!attended_rows.defined()) return gradient;
  return at::zeros({kept_rows.size(0), gradient.size(1)}, gradient.options()).index_add_(0, attended_rows, gradient);
}

at::Tensor Sequence::spread_to_attended(const at::Tensor& gradient) const {
  if (!kept_rows.defined()) return gradient;
  return at::zeros({attended_rows.size(0), gradient.size(1)}, gradient.options()).index_copy_(0, kept_rows, gradient);
}

}  // namespace tune
