#include "train/device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <fstream>

#include "recipes/schema/error.h"

namespace tune {

std::string chosen_device(Device wanted) {
  const bool found = at::hasCUDA() && at::detail::getCUDAHooks().deviceCount() > 0;
  if (wanted == Device::cuda && !found)
    throw Error{Fault::recipe, {}, at::hasCUDA() ? "train.device is cuda, but no GPU is visible"
                                                 : "train.device is cuda, but this program was built without CUDA",
                "run `tune doctor` to see what is missing, or set train.device: cpu"};
  return found && wanted != Device::cpu ? "cuda:0" : "cpu";
}

std::string device_name(const std::string& device) {
  if (device != "cpu") return device;
  std::ifstream cpu("/proc/cpuinfo");
  std::string line, name = "CPU";
  while (std::getline(cpu, line)) {
    if (line.rfind("model name", 0) != 0) continue;
    name = line.substr(line.find(':') + 2);
    break;
  }
  return fmt::format("{}, {} threads", name, at::get_num_threads());
}

std::int64_t peak_memory_bytes(const std::string&) {
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
