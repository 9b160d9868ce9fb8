#pragma once
#include <filesystem>

#include "checkpoints/base_model.h"

namespace tune {

/// Copies a PEFT adapter, byte for byte, once it is known to fit the base and to hold numbers only.
/// folder: an AtomicFolder's path().
void export_adapter(const BaseModel& base, const std::filesystem::path& adapter, const std::filesystem::path& folder);

}  // namespace tune
