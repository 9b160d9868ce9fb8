#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace tune {

/// A copy of `values`, [values.size()], on `device`. On CUDA through pinned memory and without waiting: the copy takes
/// its place in the current stream, and the step before it goes on meanwhile.
template <typename T>
at::Tensor upload(const std::vector<T>& values, const at::Device& device) {
  const auto options = at::TensorOptions(c10::CppTypeToScalarType<T>::value).pinned_memory(device.is_cuda());
  const at::Tensor host = at::empty({static_cast<std::int64_t>(values.size())}, options);
  std::copy(values.begin(), values.end(), host.template mutable_data_ptr<T>());
  return host.to(device, /*non_blocking=*/true);
}

}  // namespace tune
