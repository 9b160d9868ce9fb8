#include "checkpoints/onnx/stored_weight.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "checkpoints/huggingface/convert.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

std::int64_t blocks_in(std::int64_t columns, std::int64_t block) { return (columns + block - 1) / block; }

bool is_floating(OnnxType type) {
  return type == OnnxType::float32 || type == OnnxType::float16 || type == OnnxType::bfloat16;
}

std::int64_t columns_of(const OnnxStoredWeight& weight) { return weight.shape.size() == 2 ? weight.shape[1] : 1; }

/// 0 to 15; two in a byte, the first in its low half.
int nibble(std::span<const std::byte> bytes, std::size_t index) {
  const int both = std::to_integer<int>(bytes[index / 2]);
  return index % 2 == 0 ? both & 15 : both >> 4;
}

void decode_floating(OnnxType type, std::span<const std::byte> bytes, std::size_t first, std::span<float> values) {
  const char* name = type == OnnxType::float32 ? "F32" : type == OnnxType::float16 ? "F16" : "BF16";
  const std::size_t size = type == OnnxType::float32 ? 4 : 2;
  convert_elements(name, bytes.subspan(first * size, values.size() * size), Dtype::fp32,
                   std::as_writable_bytes(values));
}

/// Stored values from `first` on, without their scales.
void decode(OnnxType type, std::span<const std::byte> bytes, std::int64_t first, std::span<float> values) {
  const auto begin = static_cast<std::size_t>(first);
  const auto decode_each = [&](auto value_at) {
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(value_at(begin + i));
  };
  switch (type) {
    case OnnxType::int8:
      return decode_each([&](std::size_t i) { return static_cast<std::int8_t>(bytes[i]); });
    case OnnxType::uint8:
      return decode_each([&](std::size_t i) { return std::to_integer<int>(bytes[i]) - 128; });
    case OnnxType::int4:
      return decode_each([&](std::size_t i) { return (nibble(bytes, i) ^ 8) - 8; });
    case OnnxType::uint4:
      return decode_each([&](std::size_t i) { return nibble(bytes, i) - 8; });
    default:
      return decode_floating(type, bytes, begin, values);
  }
}

void decode_turned(const OnnxStoredWeight& weight, std::int64_t first, std::int64_t count, std::span<float> values) {
  const std::int64_t columns = columns_of(weight);
  std::vector<float> line(static_cast<std::size_t>(count));
  for (std::int64_t column = 0; column < columns; ++column) {
    decode(weight.type, weight.values, column * weight.shape[0] + first, line);
    for (std::size_t row = 0; row < line.size(); ++row)
      values[row * static_cast<std::size_t>(columns) + static_cast<std::size_t>(column)] = line[row];
  }
}

void scale_rows(const OnnxStoredWeight& weight, std::int64_t first, std::int64_t count, std::span<float> values) {
  const std::int64_t columns = columns_of(weight), blocks = blocks_in(columns, weight.block);
  for (std::int64_t row = 0; row < count; ++row) {
    for (std::int64_t block = 0; block < blocks; ++block) {
      const std::int64_t at = weight.is_turned ? block * weight.shape[0] + first + row : (first + row) * blocks + block;
      float scale = 0;
      std::memcpy(&scale, weight.scales.data() + static_cast<std::size_t>(at) * sizeof scale, sizeof scale);
      const std::int64_t begin = block * weight.block, end = std::min(columns, begin + weight.block);
      for (std::int64_t column = begin; column < end; ++column)
        values[static_cast<std::size_t>(row * columns + column)] *= scale;
    }
  }
}

std::int64_t integer_of(const OnnxStoredNode& node, const std::string& name, std::int64_t otherwise) {
  const auto found = node.integers.find(name);
  return found == node.integers.end() ? otherwise : found->second;
}

bool has_input(const OnnxStoredNode& node, std::size_t position) {
  return node.inputs.size() > position && !node.inputs[position].empty();
}

/// Something is there, so that products of its sizes are no more than the file's own.
bool is_whole(const OnnxStoredTensor& tensor) {
  return !tensor.dims.empty() && !tensor.bytes.empty() &&
         onnx_stored_bytes(tensor.type, tensor.dims) == std::optional(std::uint64_t{tensor.bytes.size()});
}

constexpr const char* kNBits = "com.microsoft.MatMulNBits";
constexpr std::int64_t kLargestBlock = 65536, kLargestSize = std::int64_t{1} << 32;

}  // namespace

OnnxWeightFinder::OnnxWeightFinder(const OnnxFile& file) : file_(file) {
  for (const OnnxStoredTensor& tensor : file.tensors()) tensors_.emplace(tensor.name, &tensor);
  for (const OnnxStoredNode& node : file.nodes())
    for (std::size_t i = 0; i < node.inputs.size(); ++i) uses_.emplace(node.inputs[i], Use{&node, i});
}

const OnnxStoredTensor* OnnxWeightFinder::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : found->second;
}

void OnnxWeightFinder::refuse(const OnnxStoredTensor& tensor, const std::string& what) const {
  throw Error{Fault::data,
              {file_.path().string()},
              fmt::format("{} of type {} and shape [{}] {}", tensor.name, onnx_type_name(tensor.type),
                          fmt::join(tensor.dims, ", "), what),
              "export it again"};
}

const OnnxWeightFinder::Use* OnnxWeightFinder::use_of(const std::string& value) const {
  const auto found = uses_.find(value);
  return found == uses_.end() ? nullptr : &found->second;
}

/// Who takes it, in the type that is computed in. The graph has no circles, so this ends.
const OnnxWeightFinder::Use* OnnxWeightFinder::use_of_weight(const std::string& tensor) const {
  const Use* use = use_of(tensor);
  return use != nullptr && use->node->op == "Cast" && !use->node->outputs.empty() ? use_of(use->node->outputs[0]) : use;
}

bool OnnxWeightFinder::is_taken_turned(const std::string& value) const {
  const Use* use = use_of_weight(value);
  return use != nullptr && use->node->op == "MatMul" && use->position == 1;
}

std::optional<OnnxStoredWeight> OnnxWeightFinder::weight_in(const OnnxStoredTensor& tensor) const {
  const auto is_input = [&](const OnnxValue& input) { return input.name == tensor.name; };
  if (!tensor.name.ends_with(".weight")) return std::nullopt;
  if (std::any_of(file_.inputs().begin(), file_.inputs().end(), is_input)) return std::nullopt;  // a factor of LoRA
  if (!is_whole(tensor)) refuse(tensor, "isn't stored as plain bytes");
  const Use* use = use_of_weight(tensor.name);
  if (use == nullptr) refuse(tensor, "is taken by no node");
  if (use->node->op == kNBits && use->position == 1) return blocks_of_matmul(tensor, *use->node);
  if (use->node->op == "DequantizeLinear" && use->position == 0) return dequantized(tensor, *use->node);
  OnnxStoredWeight weight{
      .name = tensor.name, .shape = tensor.dims, .type = tensor.type, .values = tensor.bytes, .scales = {}};
  weight.is_turned = is_taken_turned(tensor.name);
  const bool is_matrix = tensor.dims.size() == 2;
  if (!is_matrix && (tensor.dims.size() != 1 || weight.is_turned)) refuse(tensor, "is neither matrix nor vector");
  if (weight.is_turned) std::swap(weight.shape[0], weight.shape[1]);
  weight.stored_columns = columns_of(weight);
  if (is_floating(tensor.type)) return weight;
  if (tensor.type != OnnxType::int8 || !is_matrix || weight.is_turned) refuse(tensor, "is taken without a scale");
  weight.block = weight.stored_columns;
  add_scales(tensor, tensor.name + ".scale", 1, weight);
  return weight;
}

OnnxStoredWeight OnnxWeightFinder::blocks_of_matmul(const OnnxStoredTensor& tensor, const OnnxStoredNode& node) const {
  const std::int64_t rows = integer_of(node, "N", 0), columns = integer_of(node, "K", 0);
  const std::int64_t bits = integer_of(node, "bits", 4), block = integer_of(node, "block_size", 0);
  if ((bits != 4 && bits != 8) || block < 2 || block > kLargestBlock || rows < 1 || rows > kLargestSize ||
      columns < 1 || columns > kLargestSize || has_input(node, 3))
    refuse(tensor, "is in blocks of a kind that isn't read");
  const std::int64_t blocks = blocks_in(columns, block);
  if (tensor.type != OnnxType::uint8 || tensor.dims != std::vector{rows, blocks, block * bits / 8})
    refuse(tensor, fmt::format("isn't {} rows of {} values of {} bits", rows, columns, bits));
  OnnxStoredWeight weight{.name = tensor.name,
                          .shape = {rows, columns},
                          .type = bits == 4 ? OnnxType::uint4 : OnnxType::uint8,
                          .values = tensor.bytes,
                          .scales = {},
                          .stored_columns = blocks * block,
                          .block = block};
  if (!has_input(node, 2)) refuse(tensor, "has no scales");
  add_scales(tensor, node.inputs[2], blocks, weight);
  return weight;
}

OnnxStoredWeight OnnxWeightFinder::dequantized(const OnnxStoredTensor& tensor, const OnnxStoredNode& node) const {
  const bool is_known = tensor.type == OnnxType::int8 || tensor.type == OnnxType::int4;
  if (!is_known || tensor.dims.size() != 2 || node.outputs.empty() || !is_taken_turned(node.outputs[0]) ||
      has_input(node, 2))
    refuse(tensor, "is quantised in a way that isn't read");
  const std::int64_t rows = tensor.dims[1], columns = tensor.dims[0];
  const std::int64_t block = integer_of(node, "block_size", 0);
  if (block < 0 || block > kLargestBlock || integer_of(node, "axis", 1) != (block > 0 ? 0 : 1))
    refuse(tensor, "has scales along another axis");
  OnnxStoredWeight weight{.name = tensor.name,
                          .shape = {rows, columns},
                          .type = tensor.type,
                          .values = tensor.bytes,
                          .scales = {},
                          .is_turned = true,
                          .stored_columns = columns,
                          .block = block > 0 ? block : columns};
  if (!has_input(node, 1)) refuse(tensor, "has no scales");
  add_scales(tensor, node.inputs[1], blocks_in(columns, weight.block), weight);
  return weight;
}

void OnnxWeightFinder::add_scales(const OnnxStoredTensor& tensor, const std::string& scales, std::int64_t blocks,
                                  OnnxStoredWeight& weight) const {
  const OnnxStoredTensor* stored = find(scales);
  const auto wanted = static_cast<std::uint64_t>(weight.shape[0] * blocks) * sizeof(float);
  if (stored == nullptr || stored->type != OnnxType::float32 || stored->bytes.size() != wanted)
    refuse(tensor, fmt::format("has no {} scales of {} rows in {}", weight.shape[0] * blocks, weight.shape[0], scales));
  weight.scales = stored->bytes;
}

void read_weight_rows(const OnnxStoredWeight& weight, std::int64_t first, std::int64_t count, std::span<float> values) {
  const std::int64_t columns = columns_of(weight);
  TUNE_CHECK(first >= 0 && count >= 0 && first + count <= weight.shape[0] &&
                 values.size() == static_cast<std::size_t>(count * columns),
             "rows {} to {} of {} into {} values", first, first + count, weight.name, values.size());
  if (weight.is_turned) {
    decode_turned(weight, first, count, values);
  } else if (weight.stored_columns == columns) {
    decode(weight.type, weight.values, first * columns, values);
  } else {
    for (std::int64_t row = 0; row < count; ++row)
      decode(weight.type, weight.values, (first + row) * weight.stored_columns,
             values.subspan(static_cast<std::size_t>(row * columns), static_cast<std::size_t>(columns)));
  }
  if (!weight.scales.empty()) scale_rows(weight, first, count, values);
}

}  // namespace tune
