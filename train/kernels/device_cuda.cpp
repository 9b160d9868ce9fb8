#include <ATen/cuda/CUDAContext.h>

#include "train/kernels/cuda.h"

namespace tune::cuda {

std::string device_name(const at::Device& device) { return at::cuda::getDeviceProperties(device.index())->name; }

}  // namespace tune::cuda
