#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAFunctions.h>
#include <fmt/format.h>

#include "train/kernels/cuda.h"

namespace tune::cuda {

DeviceFacts device_facts(const at::Device& device) {
  const cudaDeviceProp& properties = *at::cuda::getDeviceProperties(device.index());
  return {.name = properties.name,
          .capability = properties.major * 10 + properties.minor,
          .pci_address = fmt::format("{:04x}:{:02x}:{:02x}.0", properties.pciDomainID, properties.pciBusID,
                                     properties.pciDeviceID)};
}

void use_device(const at::Device& device) { c10::cuda::set_device(device.index()); }

}  // namespace tune::cuda
