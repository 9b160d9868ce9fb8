#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/from_blob.h>
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "recipes/schema/error.h"
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

at::Tensor pinned_bytes(std::int64_t bytes) {
  void* data = nullptr;
  const cudaError_t result = cudaHostAlloc(&data, static_cast<std::size_t>(bytes), cudaHostAllocDefault);
  if (result == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();  // or the next call to CUDA would report it again
    throw Error{Fault::memory,
                {},
                fmt::format("the host has no {} bytes more that can be pinned", bytes),
                "end other programs on it, or leave train.offload_optimizer out"};
  }
  C10_CUDA_CHECK(result);
  return at::from_blob(
      data, {bytes}, [](void* pinned) { (void)cudaFreeHost(pinned); }, at::kByte);
}

}  // namespace tune::cuda
