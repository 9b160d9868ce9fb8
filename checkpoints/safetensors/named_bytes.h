#pragma once
#include <filesystem>
#include <span>

#include "checkpoints/training/state.h"

namespace tune {

/// All of `tensors`, in any order, as one safetensors file. Error{Fault::running} when the disk refuses.
void write_safetensors(const std::filesystem::path& path, std::span<const NamedBytes> tensors);

}  // namespace tune
