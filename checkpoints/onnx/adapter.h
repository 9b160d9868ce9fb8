#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "checkpoints/onnx/onnx.h"

namespace tune {

/// Its file beside a decoder's.
inline constexpr const char* kOnnxAdapterFile = "adapter.onnx_adapter";

/// A value for the input of that name: type and dims as the graph declares it.
struct OnnxAdapterParameter {
  std::string name;
  OnnxType type = OnnxType::float32;
  std::vector<std::int64_t> dims;
};

/// Writes a .onnx_adapter file, which onnxruntime puts into a graph's overridable inputs at run time: FlatBuffers with
/// the identifier TORT (onnxruntime/core/session/lora_adapters, adapter_schema.fbs). bytes_of: of a parameter,
/// row-major, asked for one after the other. Error{Fault::running} when the disk refuses, Error{Fault::data} for more
/// than FlatBuffers' 2 GiB.
void write_onnx_adapter(const std::filesystem::path& path, const std::vector<OnnxAdapterParameter>& parameters,
                        const std::function<std::vector<std::byte>(std::size_t parameter)>& bytes_of);

}  // namespace tune
