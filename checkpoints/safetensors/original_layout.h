#pragma once
#include <filesystem>

namespace tune {

/// True for a folder with weights as Meta and Mistral publish them beside params.json, under other names and with the
/// rows of q and k in another order: consolidated.00.pth, consolidated.01.pth, ... or consolidated.safetensors.
bool holds_original_layout(const std::filesystem::path& folder);

/// Error{Fault::data} with the command that converts the folder. Mistral's pickles have none: it publishes every model
/// in Hugging Face layout as well.
[[noreturn]] void refuse_original_layout(const std::filesystem::path& folder);

}  // namespace tune
