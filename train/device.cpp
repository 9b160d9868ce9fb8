#include "train/device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <fmt/format.h>

#include <fstream>

#include "recipes/schema/error.h"
#include "train/kernels/cuda.h"

namespace tune {

std::string chosen_device(Device wanted) {
  const bool found = at::hasCUDA() && at::detail::getCUDAHooks().deviceCount() > 0;
  if (wanted == Device::cuda && !found)
    throw Error{Fault::recipe,
                {},  // hasCUDA would say no as well where the program has CUDA and the machine no GPU
                at::globalContext().hasCUDART() ? "train.device is cuda, but no GPU is visible"
                                                : "train.device is cuda, but this program was built without CUDA",
                "run `tune doctor` to see what is missing, or set train.device: cpu"};
  return found && wanted != Device::cpu ? "cuda:0" : "cpu";
}

std::string device_name(const std::string& device) {
  if (device != "cpu") return cuda::device_name(at::Device(device));
  std::ifstream cpu("/proc/cpuinfo");
  std::string line, name = "CPU";
  while (std::getline(cpu, line)) {
    if (line.rfind("model name", 0) != 0) continue;
    name = line.substr(line.find(':') + 2);
    break;
  }
  return fmt::format("{}, {} threads", name, at::get_num_threads());
}

std::int64_t peak_memory_bytes(const std::string& device) {
  if (device != "cpu") {
    auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(at::kCUDA));
    if (allocator == nullptr || !allocator->initialized()) return 0;
    return allocator->getDeviceStats(at::Device(device).index()).allocated_bytes[0].peak;  // 0: of all pools together
  }
  std::ifstream status("/proc/self/status");
  std::string key;
  std::int64_t kilobytes = 0;
  while (status >> key) {
    if (key == "VmHWM:") {
      status >> kilobytes;
      break;
    }
    status.ignore(4096, '\n');
  }
  return kilobytes * 1024;
}

}  // namespace tune
