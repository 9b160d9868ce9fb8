#pragma once
#include <cstdint>
#include <string>

#include "recipes/schema/recipe.h"

namespace tune {

/// "cpu" or "cuda:0". Error{Fault::recipe} when cuda is asked for and this program or machine has none, or one that is
/// too old.
std::string chosen_device(Device wanted);

/// Error{Fault::recipe} where the device can't compute in that type: bf16 on cards before Ampere.
void require_arithmetic(const std::string& device, Dtype dtype);

/// Error{Fault::recipe} where the device has no products in fp8 (train/kernels/fp8.h).
void require_fp8(const std::string& device, const Place& place);

/// How many GPUs this program could use: 0 where it was built without CUDA. No context is made on them.
std::int64_t visible_gpus();

/// Among several ranks on a host: which of its GPUs chosen_device() names. It is the only one where the launcher shows
/// each rank its own. Call before everything else.
void choose_gpu(std::int64_t local_rank);

/// Whether train.device: auto would find a GPU, told without touching one: by what was built and the driver's file.
bool gpu_expected();

/// "AMD EPYC, 2 threads" or the GPU's name: for run.json and progress.
std::string device_name(const std::string& device);

/// Dense bf16 products the device can do a second, as its maker publishes it; 0 where that is not known, and on the
/// CPU.
double peak_flops(const std::string& device);

/// On CUDA: only kernels whose results repeat to the last bit, though some are slower (attention's backward and the
/// embedding's gradient); LibTorch refuses any other (c10::Error). Call before the first product. The CPU has no
/// others.
void use_exact_kernels(const std::string& device, bool wanted);

/// Peak of this process's memory so far: resident set on the CPU, allocator's peak on CUDA. Bytes.
std::int64_t peak_memory_bytes(const std::string& device);

/// Between two runs of one process: what the first one took and nobody holds any more goes back to kernel and device,
/// and the peak begins again.
void free_unused_memory(const std::string& device);

}  // namespace tune
