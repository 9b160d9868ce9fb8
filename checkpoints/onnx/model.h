#pragma once
#include <filesystem>
#include <string>

#include "checkpoints/base_model.h"

namespace tune {

/// Metadata by which a file says how `tune export` wrote it.
inline constexpr const char* kOnnxQuantKey = "tune.quant";

/// Whether a folder has a model for onnxruntime and none that can be trained.
bool holds_only_onnx(const std::filesystem::path& folder);

/// The quantisation that the model in the folder was exported with, as it is spelled.
/// Error{Fault::data} for a model that `tune export` hasn't written.
std::string onnx_quant(const std::filesystem::path& folder);

/// The model in a folder that `tune export --format onnx` wrote, to hold it against what was trained: its weights under
/// their Hugging Face names, dequantised as they are read, with the adapter that lies beside it; its configuration from
/// config.json, but for a head that was quantised by itself and so is tied no more. What the graph computes with them
/// isn't looked at. Error{Fault::data} for a model of others, a damaged file, or tensors that don't fit the
/// configuration; Error{Fault::verification} for rotary tables of other frequencies.
BaseModel open_onnx_model(const std::filesystem::path& folder);

}  // namespace tune
