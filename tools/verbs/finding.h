#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "checkpoints/weights.h"

namespace tune {

/// What `tune inspect` says of one thing on disk that was opened and found whole.
struct Finding {
  std::string kind;
  std::vector<std::pair<std::string, nlohmann::ordered_json>> facts;  // in the order they are printed
  std::vector<TensorInfo> tensors;
  std::vector<std::uint64_t> tensor_bytes;  // of each of `tensors`, where their types alone don't say it
};

/// Of an ONNX model: inputs, outputs, operators, how much is stored in which type. path: a .onnx file, or a folder with
/// a model.onnx. Error{Fault::data} when it isn't one, or not whole.
Finding inspect_onnx(const std::filesystem::path& path);

}  // namespace tune
