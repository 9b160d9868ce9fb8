#include "checkpoints/onnx/onnx.h"

#include <fmt/format.h>

#include <array>
#include <limits>

#include "checkpoints/onnx/protobuf.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

struct TypeRow {
  OnnxType type;
  const char* name;
  std::uint64_t bits;
};

// Some that we never write are here for files of others.
constexpr std::array kTypes = {
    TypeRow{OnnxType::float32, "FLOAT", 32},
    TypeRow{OnnxType::uint8, "UINT8", 8},
    TypeRow{OnnxType::int8, "INT8", 8},
    TypeRow{static_cast<OnnxType>(4), "UINT16", 16},
    TypeRow{static_cast<OnnxType>(5), "INT16", 16},
    TypeRow{OnnxType::int32, "INT32", 32},
    TypeRow{OnnxType::int64, "INT64", 64},
    TypeRow{OnnxType::boolean, "BOOL", 8},
    TypeRow{OnnxType::float16, "FLOAT16", 16},
    TypeRow{static_cast<OnnxType>(11), "DOUBLE", 64},
    TypeRow{static_cast<OnnxType>(12), "UINT32", 32},
    TypeRow{static_cast<OnnxType>(13), "UINT64", 64},
    TypeRow{OnnxType::bfloat16, "BFLOAT16", 16},
    TypeRow{static_cast<OnnxType>(17), "FLOAT8E4M3FN", 8},
    TypeRow{static_cast<OnnxType>(19), "FLOAT8E5M2", 8},
    TypeRow{OnnxType::uint4, "UINT4", 4},
    TypeRow{OnnxType::int4, "INT4", 4},
};

const TypeRow* row_of(OnnxType type) {
  for (const TypeRow& row : kTypes)
    if (row.type == type) return &row;
  return nullptr;
}

void append_value(float value, ProtobufMessage& attribute) {
  attribute.number(2, value);
  attribute.integer(20, 1);
}
void append_value(std::int64_t value, ProtobufMessage& attribute) {
  attribute.integer(3, value);
  attribute.integer(20, 2);
}
void append_value(const std::string& value, ProtobufMessage& attribute) {
  attribute.text(4, value);
  attribute.integer(20, 3);
}
void append_value(const std::vector<float>& values, ProtobufMessage& attribute) {
  for (const float value : values) attribute.number(7, value);
  attribute.integer(20, 6);
}
void append_value(const std::vector<std::int64_t>& values, ProtobufMessage& attribute) {
  for (const std::int64_t value : values) attribute.integer(8, value);
  attribute.integer(20, 7);
}

ProtobufMessage encode_node(const OnnxNode& node) {
  ProtobufMessage message;
  for (const std::string& input : node.inputs) message.text(1, input);
  for (const std::string& output : node.outputs) message.text(2, output);
  message.text(3, node.name);
  message.text(4, node.op_type);
  for (const auto& [name, value] : node.attributes) {
    ProtobufMessage attribute;
    attribute.text(1, name);
    std::visit([&](const auto& typed) { append_value(typed, attribute); }, value);
    message.message(5, attribute);
  }
  if (!node.domain.empty()) message.text(7, node.domain);
  return message;
}

ProtobufMessage encode_pair(std::string_view key, std::string_view value) {
  ProtobufMessage message;
  message.text(1, key);
  message.text(2, value);
  return message;
}

ProtobufMessage encode_tensor(const OnnxTensor& tensor) {
  ProtobufMessage message;
  for (const std::int64_t dim : tensor.dims) message.integer(1, dim);
  message.integer(2, static_cast<std::int64_t>(tensor.type));
  message.text(8, tensor.name);
  if (!tensor.external) {
    message.text(9, tensor.inline_bytes);
    return message;
  }
  message.message(13, encode_pair("location", tensor.external->location));
  message.message(13, encode_pair("offset", std::to_string(tensor.external->offset)));
  message.message(13, encode_pair("length", std::to_string(tensor.external->length)));
  message.integer(14, 1);
  return message;
}

ProtobufMessage encode_dim(const OnnxDim& dim) {
  ProtobufMessage message;
  if (const auto* size = std::get_if<std::int64_t>(&dim))
    message.integer(1, *size);
  else
    message.text(2, std::get<std::string>(dim));
  return message;
}

ProtobufMessage encode_value(const OnnxValue& value) {
  ProtobufMessage shape, tensor_type, type, message;
  for (const OnnxDim& dim : value.shape) shape.message(1, encode_dim(dim));
  tensor_type.integer(1, static_cast<std::int64_t>(value.type));
  tensor_type.message(2, shape);
  type.message(1, tensor_type);
  message.text(1, value.name);
  message.message(2, type);
  return message;
}

ProtobufMessage encode_graph(const OnnxModel& model) {
  ProtobufMessage graph;
  for (const OnnxNode& node : model.nodes) graph.message(1, encode_node(node));
  graph.text(2, model.graph_name);
  for (const OnnxTensor& tensor : model.initializers) graph.message(5, encode_tensor(tensor));
  for (const OnnxValue& input : model.inputs) graph.message(11, encode_value(input));
  for (const OnnxValue& output : model.outputs) graph.message(12, encode_value(output));
  return graph;
}

}  // namespace

std::string onnx_type_name(OnnxType type) {
  const TypeRow* row = row_of(type);
  return row == nullptr ? fmt::format("type {}", static_cast<std::int32_t>(type)) : row->name;
}

std::optional<std::uint64_t> onnx_stored_bytes(OnnxType type, const std::vector<std::int64_t>& dims) {
  const TypeRow* row = row_of(type);
  if (row == nullptr) return std::nullopt;
  std::uint64_t bits = row->bits;
  for (const std::int64_t dim : dims) {
    const auto size = static_cast<std::uint64_t>(dim);
    if (size != 0 && bits > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) / size)
      return std::nullopt;
    bits *= size;
  }
  return (bits + 7) / 8;
}

std::string encode_onnx(const OnnxModel& model) {
  ProtobufMessage message;
  message.integer(1, model.ir_version);
  message.text(2, model.producer_name);
  message.text(3, model.producer_version);
  message.message(7, encode_graph(model));
  for (const auto& [domain, version] : model.opsets) {
    ProtobufMessage opset;
    opset.text(1, domain);
    opset.integer(2, version);
    message.message(8, opset);
  }
  for (const auto& [key, value] : model.metadata) message.message(14, encode_pair(key, value));
  TUNE_CHECK(message.bytes().size() < std::numeric_limits<std::int32_t>::max(), "{} bytes of ONNX",
             message.bytes().size());
  return message.bytes();
}

}  // namespace tune
