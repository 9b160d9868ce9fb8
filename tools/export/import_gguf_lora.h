#pragma once
#include <filesystem>

#include "checkpoints/base_model.h"

namespace tune {

/// True for a file that is to be read as a GGUF adapter, by its name.
bool is_gguf_adapter(const std::filesystem::path& path);

/// The way back from export_gguf_lora: fills a folder (an AtomicFolder's path()) with the PEFT adapter that `file`
/// holds, in fp32, for `base`. Error{Fault::data} for a GGUF that is no LoRA adapter, one of another base, and for what
/// PEFT's form here can't say: ranks that differ, adapters of embeddings or head, control vectors.
void import_gguf_lora(const BaseModel& base, const std::filesystem::path& file, const std::filesystem::path& folder);

}  // namespace tune
