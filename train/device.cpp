#include "train/device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <fmt/format.h>
#include <malloc.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "recipes/schema/error.h"
#include "train/host_arena.h"
#include "train/kernels/cuda.h"
#include "train/plan/process.h"

namespace tune {
namespace {

std::int64_t local_rank = 0;

}  // namespace

std::int64_t visible_gpus() { return at::hasCUDA() ? at::detail::getCUDAHooks().deviceCount() : 0; }

void choose_gpu(std::int64_t number) { local_rank = number; }

std::string chosen_device(Device wanted) {
  const std::int64_t gpus = visible_gpus();
  const bool found = gpus > 0;
  if (wanted == Device::cuda && !found)
    throw Error{Fault::recipe,
                {},  // hasCUDA would say no as well where the program has CUDA and the machine no GPU
                at::globalContext().hasCUDART() ? "train.device is cuda, but no GPU is visible"
                                                : "train.device is cuda, but this program was built without CUDA",
                "run `tune doctor` to see what is missing, or set train.device: cpu"};
  if (!found || wanted == Device::cpu) return "cpu";
  if (gpus > 1 && local_rank >= gpus)
    throw Error{Fault::recipe,
                {},
                fmt::format("local rank {} has no GPU: {} are visible", local_rank, gpus),
                "start as many ranks a host as it has GPUs, or set train.device: cpu"};
  const std::string name = fmt::format("cuda:{}", gpus > 1 ? local_rank : 0);
  const cuda::DeviceFacts facts = cuda::device_facts(at::Device(name));
  constexpr int kTuring = 75;  // the oldest that kernels are compiled for (cmake/torch.cmake)
  if (facts.capability < kTuring)
    throw Error{Fault::recipe,
                {},
                fmt::format("{} has compute capability {}.{}; 7.5 is needed", facts.name, facts.capability / 10,
                            facts.capability % 10),
                "choose another card with CUDA_VISIBLE_DEVICES, or set train.device: cpu"};
  cuda::use_device(at::Device(name));
  return name;
}

void require_arithmetic(const std::string& device, Dtype dtype) {
  if (device == "cpu" || dtype != Dtype::bf16) return;
  const cuda::DeviceFacts facts = cuda::device_facts(at::Device(device));
  constexpr int kAmpere = 80;  // the first with bf16 products
  if (facts.capability < kAmpere)
    throw Error{Fault::recipe,
                {},
                fmt::format("{} has compute capability {}.{}; bf16 needs 8.0", facts.name, facts.capability / 10,
                            facts.capability % 10),
                "set train.precision: fp16 (tune generate: --dtype fp16)"};
}

void require_fp8(const std::string& device, const Place& place) {
  constexpr int kHopper = 9;
  std::string found = "this is the CPU";
  if (device != "cpu") {
    const cuda::DeviceFacts facts = cuda::device_facts(at::Device(device));
    if (facts.capability / 10 == kHopper) return;  // what came after it has other row-wise products, untried here
    found = fmt::format("{} has {}.{}", facts.name, facts.capability / 10, facts.capability % 10);
  }
  throw Error{Fault::recipe, place,
              "precision is fp8, whose products need a GPU of compute capability 9.0 (Hopper); " + found,
              "write precision: bf16 and, where memory is short, adapter.type: qlora"};
}

bool gpu_expected() {
  return at::globalContext().hasCUDART() && std::filesystem::exists("/proc/driver/nvidia/version");
}

std::string device_name(const std::string& device) {
  if (device != "cpu") return cuda::device_facts(at::Device(device)).name;
  std::ifstream cpu("/proc/cpuinfo");
  std::string line, name = "CPU";
  while (std::getline(cpu, line)) {
    if (line.rfind("model name", 0) != 0) continue;
    name = line.substr(line.find(':') + 2);
    break;
  }
  return fmt::format("{}, {} threads", name, at::get_num_threads());
}

double peak_flops(const std::string& device) {
  if (device == "cpu") return 0;
  // The first part that the name holds; cards of lower power come before the SXM modules that share their name.
  constexpr std::pair<const char*, double> kPeaks[] = {{"H200 NVL", 835e12}, {"H200", 989e12},    {"H100 PCIe", 756e12},
                                                       {"H100 NVL", 835e12}, {"H100", 989e12},    {"A100", 312e12},
                                                       {"L40S", 362e12},     {"RTX 4090", 165e12}};
  const std::string name = device_name(device);
  for (const auto& [part, peak] : kPeaks)
    if (name.find(part) != std::string::npos) return peak;
  return 0;
}

void use_exact_kernels(const std::string& device, bool wanted) {
  if (device == "cpu") return;
  // Where cuBLAS cuts a product's sum into parts, these are added in fp32: in fp16 they may overflow.
  at::globalContext().setAllowFP16ReductionCuBLAS(false);
  at::globalContext().setDeterministicAlgorithms(wanted, /*warn_only=*/false);
  at::globalContext().setDeterministicFillUninitializedMemory(false);  // would write NaN into every new tensor
  if (wanted) setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);         // cuBLAS reads it when it first runs
}

std::int64_t peak_memory_bytes(const std::string& device) {
  if (device != "cpu") {
    auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(at::kCUDA));
    if (allocator == nullptr || !allocator->initialized()) return 0;
    return allocator->getDeviceStats(at::Device(device).index()).allocated_bytes[0].peak;  // 0: of all pools together
  }
  return peak_resident_bytes();
}

void free_unused_memory(const std::string& device) {
  trim_arena();
  malloc_trim(0);
  forget_peak_resident_bytes();
  auto* allocator = device == "cpu" ? nullptr : dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(at::kCUDA));
  if (allocator == nullptr || !allocator->initialized()) return;
  allocator->emptyCache();
  allocator->resetPeakStats(at::Device(device).index());
}

}  // namespace tune
