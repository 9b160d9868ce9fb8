#include "tools/export/onnx/planned_weight.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "checkpoints/files/file_system.h"
#include "checkpoints/onnx/external_data.h"
#include "checkpoints/onnx/quantize.h"
#include "recipes/schema/error.h"
#include "tools/export/stream.h"

namespace tune {

namespace {

constexpr std::uint64_t kInlineBytes = 1024;  // fewer: in the .onnx file, for readers that infer shapes

using Bytes = std::vector<std::byte>;

std::size_t blocks_of(std::size_t columns) { return (columns + kOnnxBlock - 1) / kOnnxBlock; }

template <typename T>
void turn(const std::byte* values, std::size_t rows, std::size_t columns, std::byte* result) {
  for (std::size_t column = 0; column < columns; ++column)
    for (std::size_t row = 0; row < rows; ++row)
      std::memcpy(result + (column * rows + row) * sizeof(T), values + (row * columns + column) * sizeof(T), sizeof(T));
}

/// [rows, columns] elements of 1, 2 or 4 bytes -> [columns, rows].
Bytes turned(std::span<const std::byte> values, std::size_t columns, std::size_t element) {
  const std::size_t rows = values.size() / (columns * element);
  Bytes result(values.size());
  const auto turn_elements = element == 1   ? turn<std::uint8_t>
                             : element == 2 ? turn<std::uint16_t>
                                            : turn<std::uint32_t>;
  turn_elements(values.data(), rows, columns, result.data());
  return result;
}

/// Puts blocks [columns, a few rows] side by side, to [columns, all rows].
class SideBySide {
 public:
  SideBySide(std::size_t columns, std::size_t rows, std::size_t element)
      : columns_(columns), row_bytes_(rows * element), bytes_(columns * rows * element) {}

  void take(std::span<const std::byte> block) {
    const std::size_t width = block.size() / columns_;
    for (std::size_t column = 0; column < columns_; ++column)
      std::memcpy(bytes_.data() + column * row_bytes_ + done_, block.data() + column * width, width);
    done_ += width;
  }

  Bytes& bytes() { return bytes_; }

 private:
  std::size_t columns_, row_bytes_, done_ = 0;
  Bytes bytes_;
};

/// A quantised block of rows: values, one byte each or packed, then fp32 scales; both as the file has them, but for
/// `turned` ones only for these rows.
Bytes joined(std::span<const std::byte> values, std::span<const float> scales) {
  Bytes bytes(values.begin(), values.end());
  const auto tail = std::as_bytes(scales);
  bytes.insert(bytes.end(), tail.begin(), tail.end());
  return bytes;
}

/// The two parts again: `row_bytes` of values and `row_scales` scales a row.
std::pair<std::span<const std::byte>, std::span<const std::byte>> parted(std::span<const std::byte> piece,
                                                                         std::size_t row_bytes,
                                                                         std::size_t row_scales) {
  const std::size_t rows = piece.size() / (row_bytes + row_scales * sizeof(float));
  return {piece.first(rows * row_bytes), piece.subspan(rows * row_bytes)};
}

Bytes converted(std::span<const float> rows, Dtype dtype) {
  Bytes bytes(rows.size() * element_bytes(dtype));
  convert_elements("F32", std::as_bytes(rows), dtype, bytes);
  return bytes;
}

struct Int8Rows {
  std::vector<std::int8_t> values;
  std::vector<float> scales;
};

Int8Rows int8_rows(std::span<const float> rows, std::size_t columns) {
  Int8Rows result{std::vector<std::int8_t>(rows.size()), {}};
  for (std::size_t at = 0; at < rows.size(); at += columns)
    result.scales.push_back(quantize_int8(rows.subspan(at, columns), std::span(result.values).subspan(at, columns)));
  return result;
}

/// One byte a value [rows, columns], and scales [rows, blocks].
struct BlockRows {
  std::vector<std::uint8_t> values;
  std::vector<float> scales;
};

BlockRows block_rows(std::span<const float> rows, std::size_t columns, int bits) {
  BlockRows result{std::vector<std::uint8_t>(rows.size()), {}};
  for (std::size_t row = 0; row < rows.size(); row += columns) {
    for (std::size_t at = 0; at < columns; at += kOnnxBlock) {
      const std::size_t count = std::min<std::size_t>(kOnnxBlock, columns - at);
      result.scales.push_back(
          quantize_block(rows.subspan(row + at, count), bits, std::span(result.values).subspan(row + at, count)));
    }
  }
  return result;
}

/// Two neighbours in a byte, the first in the low half; in place. An odd last one has a zero beside it.
void pack_nibbles(Bytes& values) {
  const std::byte low{0x0f};
  for (std::size_t i = 0; i < values.size(); i += 2)
    values[i / 2] = (values[i] & low) | (i + 1 < values.size() ? values[i + 1] << 4 : std::byte{0});
  values.resize((values.size() + 1) / 2);
}

/// Rows of whole blocks as MatMulNBits packs them; what a row's last block lacks is zero.
Bytes pack_blocks(std::span<const std::uint8_t> values, std::size_t columns, int bits) {
  const std::size_t width = blocks_of(columns) * kOnnxBlock;
  Bytes bytes(values.size() / columns * width);
  for (std::size_t row = 0; row * columns < values.size(); ++row)
    std::memcpy(bytes.data() + row * width, values.data() + row * columns, columns);
  if (bits == 4) pack_nibbles(bytes);
  return bytes;
}

OnnxTensor described(OnnxType type, std::vector<std::int64_t> dims) {
  return {.name = {}, .type = type, .dims = std::move(dims), .inline_bytes = {}, .external = {}};
}

struct MatrixSize {
  explicit MatrixSize(const TensorInfo& source)
      : rows(static_cast<std::size_t>(source.shape[0])), columns(static_cast<std::size_t>(source.shape[1])) {}
  std::size_t rows, columns;
};

/// Streams a matrix whose blocks of rows are encoded as joined(); values are handed on as they come, the scales, which
/// are few, at the end.
void produce_rows(const WeightSource& weights, const TensorInfo& source, const RowEncoding& encoding,
                  std::size_t row_bytes, std::size_t row_scales, const TakeTensorPiece& take) {
  Bytes scales;
  stream_tensor(weights, source, 1, encoding, [&](std::span<const std::byte> piece) {
    const auto [values, few] = parted(piece, row_bytes, row_scales);
    take(0, values);
    scales.insert(scales.end(), few.begin(), few.end());
  });
  take(1, scales);
}

/// The same for blocks that lie on their side, one byte a value.
void produce_turned(const WeightSource& weights, const TensorInfo& source, const RowEncoding& encoding,
                    std::size_t row_scales, bool nibbles, const TakeTensorPiece& take) {
  const MatrixSize size(source);
  SideBySide values(size.columns, size.rows, 1), scales(row_scales, size.rows, sizeof(float));
  stream_tensor(weights, source, 1, encoding, [&](std::span<const std::byte> piece) {
    const auto [some, few] = parted(piece, size.columns, row_scales);
    values.take(some);
    scales.take(few);
  });
  if (nibbles) pack_nibbles(values.bytes());
  take(0, values.bytes());
  take(1, scales.bytes());
}

}  // namespace

OnnxType onnx_type_of(Dtype dtype) {
  if (dtype == Dtype::fp32) return OnnxType::float32;
  return dtype == Dtype::fp16 ? OnnxType::float16 : OnnxType::bfloat16;
}

PlannedWeight plain_weight(const WeightSource& weights, const TensorInfo& source, Dtype dtype) {
  const RowEncoding encoding{.type = dtype_name(dtype), .overflow = overflow_of(dtype), .encode = [dtype](auto rows) {
                               return converted(rows, dtype);
                             }};
  return {.tensors = {described(onnx_type_of(dtype), source.shape)},
          .produce = [&weights, source, encoding](const TakeTensorPiece& take) {
            stream_tensor(weights, source, 1, encoding, [&](auto piece) { take(0, piece); });
          }};
}

PlannedWeight transposed_weight(const WeightSource& weights, const TensorInfo& source, Dtype dtype) {
  const MatrixSize size(source);
  const RowEncoding encoding{
      .type = dtype_name(dtype), .overflow = overflow_of(dtype), .encode = [dtype, size](std::span<float> rows) {
        return turned(converted(rows, dtype), size.columns, element_bytes(dtype));
      }};
  return {.tensors = {described(onnx_type_of(dtype), {source.shape[1], source.shape[0]})},
          .produce = [&weights, source, encoding, size, dtype](const TakeTensorPiece& take) {
            SideBySide whole(size.columns, size.rows, element_bytes(dtype));
            stream_tensor(weights, source, 1, encoding, [&](auto piece) { whole.take(piece); });
            take(0, whole.bytes());
          }};
}

PlannedWeight int8_rows_weight(const WeightSource& weights, const TensorInfo& source) {
  const MatrixSize size(source);
  const RowEncoding encoding{.type = "INT8", .encode = [size](std::span<float> rows) {
                               const Int8Rows coded = int8_rows(rows, size.columns);
                               return joined(std::as_bytes(std::span(coded.values)), coded.scales);
                             }};
  return {.tensors = {described(OnnxType::int8, source.shape), described(OnnxType::float32, {source.shape[0], 1})},
          .produce = [&weights, source, encoding, size](const TakeTensorPiece& take) {
            produce_rows(weights, source, encoding, size.columns, 1, take);
          }};
}

PlannedWeight int8_transposed_weight(const WeightSource& weights, const TensorInfo& source) {
  const MatrixSize size(source);
  const RowEncoding encoding{.type = "INT8", .encode = [size](std::span<float> rows) {
                               const Int8Rows coded = int8_rows(rows, size.columns);
                               return joined(turned(std::as_bytes(std::span(coded.values)), size.columns, 1),
                                             coded.scales);
                             }};
  return {.tensors = {described(OnnxType::int8, {source.shape[1], source.shape[0]}),
                      described(OnnxType::float32, {source.shape[0]})},
          .produce = [&weights, source, encoding](const TakeTensorPiece& take) {
            produce_turned(weights, source, encoding, 1, false, take);
          }};
}

PlannedWeight int4_transposed_weight(const WeightSource& weights, const TensorInfo& source) {
  const MatrixSize size(source);
  const std::size_t blocks = blocks_of(size.columns);
  const RowEncoding encoding{.type = "INT4", .encode = [size, blocks](std::span<float> rows) {
                               BlockRows coded = block_rows(rows, size.columns, 4);
                               for (std::uint8_t& value : coded.values) value ^= 8;  // from zero point 8 to signed
                               const Bytes scales =
                                   turned(std::as_bytes(std::span(coded.scales)), blocks, sizeof(float));
                               Bytes bytes = turned(std::as_bytes(std::span(coded.values)), size.columns, 1);
                               bytes.insert(bytes.end(), scales.begin(), scales.end());
                               return bytes;
                             }};
  return {.tensors = {described(OnnxType::int4, {source.shape[1], source.shape[0]}),
                      described(OnnxType::float32, {static_cast<std::int64_t>(blocks), source.shape[0]})},
          .produce = [&weights, source, encoding, blocks](const TakeTensorPiece& take) {
            produce_turned(weights, source, encoding, blocks, true, take);
          }};
}

PlannedWeight nbits_weight(const WeightSource& weights, const TensorInfo& source, int bits) {
  const MatrixSize size(source);
  const std::size_t blocks = blocks_of(size.columns);
  const auto block_bytes = static_cast<std::size_t>(kOnnxBlock * bits / 8);
  const RowEncoding encoding{.type = bits == 4 ? "INT4" : "INT8", .encode = [size, bits](std::span<float> rows) {
                               const BlockRows coded = block_rows(rows, size.columns, bits);
                               return joined(pack_blocks(coded.values, size.columns, bits), coded.scales);
                             }};
  const auto block_count = static_cast<std::int64_t>(blocks);
  return {
      .tensors = {described(OnnxType::uint8, {source.shape[0], block_count, static_cast<std::int64_t>(block_bytes)}),
                  described(OnnxType::float32, {source.shape[0], block_count})},
      .produce = [&weights, source, encoding, blocks, block_bytes](const TakeTensorPiece& take) {
        produce_rows(weights, source, encoding, blocks * block_bytes, blocks, take);
      }};
}

PlannedWeight computed_weight(std::vector<float> values, std::int64_t columns, Dtype dtype) {
  const std::int64_t rows = static_cast<std::int64_t>(values.size()) / columns;
  return {.tensors = {described(onnx_type_of(dtype), {rows, columns})},
          .produce = [values = std::move(values), dtype](const TakeTensorPiece& take) {
            take(0, converted(values, dtype));
          }};
}

void write_weights(const std::vector<PlannedWeight>& weights, const std::filesystem::path& file, OnnxModel& model) {
  const auto bytes_of = [](const OnnxTensor& tensor) { return onnx_stored_bytes(tensor.type, tensor.dims).value(); };
  std::uint64_t total = 0;
  for (const PlannedWeight& weight : weights)
    for (const OnnxTensor& tensor : weight.tensors) total += bytes_of(tensor) + onnx_alignment(bytes_of(tensor));
  require_free_disk(file, total + total / 10, "the exported model");
  OnnxDataWriter writer(file);
  for (const PlannedWeight& weight : weights) {
    std::vector<OnnxTensor> tensors = weight.tensors;
    weight.produce([&](std::size_t index, std::span<const std::byte> piece) {
      OnnxTensor& tensor = tensors.at(index);
      if (bytes_of(tensor) < kInlineBytes) {
        tensor.inline_bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
        return;
      }
      if (!tensor.external) tensor.external = writer.begin(bytes_of(tensor));
      writer.write(piece);
    });
    for (OnnxTensor& tensor : tensors) model.initializers.push_back(std::move(tensor));
  }
  writer.close();
}

}  // namespace tune
