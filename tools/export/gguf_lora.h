#pragma once
#include <filesystem>

#include "checkpoints/base_model.h"

namespace tune {

/// Writes a PEFT adapter as the GGUF that llama.cpp's --lora takes, F32. Error{Fault::data} when it doesn't fit the
/// base.
void export_gguf_lora(const BaseModel& base, const std::filesystem::path& adapter, const std::filesystem::path& output);

}  // namespace tune
