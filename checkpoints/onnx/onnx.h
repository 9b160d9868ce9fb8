#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace tune {

// ONNX's messages, as far as a decoder needs them. Source: onnx/onnx.proto of ONNX 1.23.

/// TensorProto.DataType.
enum class OnnxType : std::int32_t {
  float32 = 1,
  uint8 = 2,
  int8 = 3,
  int32 = 6,
  int64 = 7,
  boolean = 9,
  float16 = 10,
  bfloat16 = 16,
  uint4 = 21,
  int4 = 22,
};

/// As ONNX spells it, "FLOAT"; "type 99" for a number that we don't know.
std::string onnx_type_name(OnnxType type);

/// Bytes of the tensor as raw or external data; nothing for a type that we don't know, or more than fits in 63 bits.
/// Values of four bits lie two in a byte, over the whole tensor. dims: none negative.
std::optional<std::uint64_t> onnx_stored_bytes(OnnxType type, const std::vector<std::int64_t>& dims);

/// A size that is known, or the name of one that isn't.
using OnnxDim = std::variant<std::int64_t, std::string>;

/// An input or output of the graph.
struct OnnxValue {
  std::string name;
  OnnxType type = OnnxType::float32;
  std::vector<OnnxDim> shape;
};

/// Where a tensor's bytes lie: in a file in the model's folder.
struct OnnxExternal {
  std::string location;
  std::uint64_t offset = 0, length = 0;
};

struct OnnxTensor {
  std::string name;
  OnnxType type = OnnxType::float32;
  std::vector<std::int64_t> dims;
  std::string inline_bytes;  // row-major, little-endian; empty where `external` is given
  std::optional<OnnxExternal> external;
};

using OnnxAttributeValue =
    std::variant<float, std::int64_t, std::string, std::vector<float>, std::vector<std::int64_t>>;
using OnnxAttributes = std::vector<std::pair<std::string, OnnxAttributeValue>>;

/// Inputs and outputs are names of values; an optional one that isn't given is "".
struct OnnxNode {
  std::string op_type;
  std::string domain;  // "" = ai.onnx
  std::string name;
  std::vector<std::string> inputs, outputs;
  OnnxAttributes attributes;
};

struct OnnxModel {
  std::int64_t ir_version = 8;
  std::string producer_name, producer_version;
  std::vector<std::pair<std::string, std::int64_t>> opsets;  // domain and version
  std::vector<std::pair<std::string, std::string>> metadata;
  std::string graph_name;
  std::vector<OnnxNode> nodes;  // each after those whose outputs it takes
  std::vector<OnnxTensor> initializers;
  std::vector<OnnxValue> inputs, outputs;
};

/// The model as the bytes of a .onnx file. TUNE_CHECK: they are fewer than 2 GiB, the most that a reader takes.
std::string encode_onnx(const OnnxModel& model);

}  // namespace tune
