#include <cmath>
#include <numeric>

#include "checkpoints/onnx/adapter.h"
#include "checkpoints/onnx/external_data.h"
#include "checkpoints/onnx/onnx.h"
#include "checkpoints/onnx/protobuf.h"
#include "checkpoints/onnx/quantize.h"
#include "checkpoints/onnx/reader.h"
#include "tests/checkpoints/files_helpers.h"

namespace tune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::StartsWith;

TEST(Protobuf, WritesWhatItsSpecificationShows) {
  ProtobufMessage inner, message;
  inner.integer(1, 150);  // "08 96 01", protobuf.dev/programming-guides/encoding
  EXPECT_EQ(inner.bytes(), std::string("\x08\x96\x01"));
  message.message(3, inner);
  message.text(2, "testing");
  message.number(16, 1.0f);
  EXPECT_EQ(message.bytes(), std::string("\x1a\x03\x08\x96\x01\x12\x07testing\x85\x01\x00\x00\x80\x3f", 20));
}

TEST(Protobuf, ANegativeNumberHasTenBytes) {
  ProtobufMessage message;
  message.integer(3, -1);
  ASSERT_EQ(message.bytes().size(), 11u);
  const std::string file = "f", bytes = message.bytes();
  ProtobufReader reader(std::as_bytes(std::span(bytes)), file);
  ASSERT_TRUE(reader.next());
  EXPECT_EQ(reader.integer(), -1);
  EXPECT_FALSE(reader.next());
}

TEST(Protobuf, NumbersMayBePacked) {
  const std::string file = "f", bytes("\x0a\x03\x01\xac\x02\x08\x05", 7);
  ProtobufReader reader(std::as_bytes(std::span(bytes)), file);
  ASSERT_TRUE(reader.next());
  EXPECT_THAT(reader.integers(), ElementsAre(1, 300));
  ASSERT_TRUE(reader.next());
  EXPECT_THAT(reader.integers(), ElementsAre(5));
}

OnnxModel small_model() {
  OnnxModel model;
  model.producer_name = "tune";
  model.producer_version = "1";
  model.opsets = {{"", 17}, {"com.microsoft", 1}};
  model.metadata = {{"key", "value"}};
  model.graph_name = "graph";
  model.inputs = {{"x", OnnxType::float32, {std::string("batch"), std::int64_t{3}}}};
  model.outputs = {{"y", OnnxType::float32, {std::string("batch"), std::int64_t{2}}}};
  model.nodes = {{"MatMul", "", "a", {"x", "w"}, {"m"}, {}},
                 {"Gelu", "com.microsoft", "b", {"m"}, {"y"}, {{"f", 0.5f}, {"i", std::int64_t{-2}}}}};
  model.initializers = {{"w", OnnxType::float32, {3, 2}, std::string(24, '\0'), {}}};
  return model;
}

OnnxModel external_model() {
  OnnxModel model = small_model();
  model.initializers[0].inline_bytes.clear();
  model.initializers[0].external = OnnxExternal{"d.bin", 64, 24};
  return model;
}

TEST(OnnxFile, ReadsWhatTheEncoderWrites) {
  const TemporaryFolder folder;
  put(folder / "m.onnx", encode_onnx(small_model()));
  const OnnxFile file(folder / "m.onnx");
  EXPECT_EQ(file.producer(), "tune 1");
  EXPECT_EQ(file.ir_version(), 8);
  EXPECT_THAT(file.opsets(), ElementsAre(Pair("", 17), Pair("com.microsoft", 1)));
  EXPECT_THAT(file.metadata(), ElementsAre(Pair("key", "value")));
  EXPECT_THAT(file.operators(), ElementsAre(Pair("MatMul", 1), Pair("com.microsoft.Gelu", 1)));
  ASSERT_EQ(file.inputs().size(), 1u);
  EXPECT_EQ(file.inputs()[0].name, "x");
  EXPECT_THAT(file.inputs()[0].shape, ElementsAre(OnnxDim("batch"), OnnxDim(std::int64_t{3})));
  ASSERT_EQ(file.tensors().size(), 1u);
  EXPECT_EQ(file.tensors()[0].bytes.size(), 24u);
  EXPECT_THAT(file.tensors()[0].dims, ElementsAre(3, 2));
}

TEST(OnnxFile, FindsTensorsInTheDataFile) {
  const TemporaryFolder folder;
  put(folder / "m.onnx", encode_onnx(external_model()));
  put(folder / "d.bin", std::string(64, 'a') + std::string(24, 'b'));
  const OnnxFile file(folder / "m.onnx");
  EXPECT_EQ(file.tensors()[0].location, "d.bin");
  EXPECT_EQ(text_of(file.tensors()[0].bytes), std::string(24, 'b'));
}

TEST(OnnxFile, NamesFileAndTensorOfWhatIsCutOff) {
  const TemporaryFolder folder;
  put(folder / "m.onnx", encode_onnx(external_model()));
  EXPECT_THAT(error_text(Fault::data, [&] { OnnxFile(folder / "m.onnx"); }), HasSubstr("d.bin: is missing; tensor w"));
  put(folder / "d.bin", std::string(80, 'a'));
  EXPECT_THAT(error_text(Fault::data, [&] { OnnxFile(folder / "m.onnx"); }),
              HasSubstr("d.bin: is cut off: tensor w is 24 bytes at 64, the file has 80"));
}

TEST(OnnxFile, RefusesFilesOutsideOfTheFolderAndWrongSizes) {
  const TemporaryFolder folder;
  const auto said = [&](const OnnxExternal& external) {
    OnnxModel model = external_model();
    model.initializers[0].external = external;
    put(folder / "m.onnx", encode_onnx(model));
    put(folder / "d.bin", std::string(88, 'a'));
    return error_text(Fault::data, [&] { OnnxFile(folder / "m.onnx"); });
  };
  EXPECT_THAT(said({"../d.bin", 64, 24}), HasSubstr("tensor w: it names no file of the model's folder"));
  EXPECT_THAT(said({"/etc/passwd", 0, 24}), HasSubstr("names no file of the model's folder"));
  EXPECT_THAT(said({"d.bin", 64, 20}), HasSubstr("tensor w has 20 bytes, its shape needs 24"));
  EXPECT_THAT(said({"d.bin", ~std::uint64_t{0}, 24}), HasSubstr("is cut off"));
}

// Whatever is lost of a file or wrong in it: an error with a remedy, never a crash.
TEST(OnnxFile, BearsAnyCutAndAnyFlippedByte) {
  const TemporaryFolder folder;
  const std::string whole = encode_onnx(external_model());
  put(folder / "d.bin", std::string(88, 'a'));
  const auto try_bytes = [&](const std::string& bytes) {
    put(folder / "m.onnx", bytes);
    try {
      const OnnxFile file(folder / "m.onnx");
      return true;
    } catch (const Error& error) {
      EXPECT_EQ(error.fault(), Fault::data);
      return false;
    }
  };
  for (std::size_t length = 0; length < whole.size() / 2; ++length) EXPECT_FALSE(try_bytes(whole.substr(0, length)));
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const char flip : {'\x01', '\x80', '\xff'}) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ flip);
      try_bytes(bytes);
    }
  }
  EXPECT_FALSE(try_bytes("not a model"));
  EXPECT_FALSE(try_bytes(std::string(100, '\xff')));
}

TEST(OnnxFile, GraphsInsideOfGraphsEnd) {
  ProtobufMessage graph;
  for (int i = 0; i < 100; ++i) {
    ProtobufMessage attribute, node, outer;
    attribute.message(6, graph);
    node.text(4, "If");
    node.message(5, attribute);
    outer.message(1, node);
    graph = outer;
  }
  ProtobufMessage model;
  model.integer(1, 8);
  model.message(7, graph);
  const TemporaryFolder folder;
  put(folder / "m.onnx", model.bytes());
  EXPECT_THAT(error_text(Fault::data, [&] { OnnxFile(folder / "m.onnx"); }), HasSubstr("graphs inside of graphs"));
}

TEST(OnnxDataWriter, AlignsTensorsForMapping) {
  const TemporaryFolder folder;
  OnnxDataWriter writer(folder / "d.bin");
  const std::vector<std::byte> small(100), large((1 << 20) + 1);
  const OnnxExternal first = writer.begin(small.size());
  writer.write(small);
  const OnnxExternal second = writer.begin(small.size());
  writer.write(small);
  const OnnxExternal third = writer.begin(large.size());
  writer.write(large);
  writer.close();
  EXPECT_EQ(first.offset, 0u);
  EXPECT_EQ(second.offset, 128u);
  EXPECT_EQ(third.offset, 65536u);
  EXPECT_EQ(third.location, "d.bin");
  EXPECT_EQ(std::filesystem::file_size(folder / "d.bin"), 65536u + large.size());
}

TEST(OnnxType, CountsBytesOfNibblesAndRefusesWhatOverflows) {
  EXPECT_EQ(onnx_stored_bytes(OnnxType::int4, {3, 3}), 5u);
  EXPECT_EQ(onnx_stored_bytes(OnnxType::float16, {}), 2u);
  EXPECT_EQ(onnx_stored_bytes(OnnxType::float32, {0, 4}), 0u);
  EXPECT_EQ(onnx_stored_bytes(OnnxType::float32, {std::int64_t{1} << 40, std::int64_t{1} << 40}), std::nullopt);
  EXPECT_EQ(onnx_stored_bytes(static_cast<OnnxType>(99), {1}), std::nullopt);
}

TEST(OnnxQuantize, TheLargestMagnitudeIsExact) {
  std::vector<float> values(32);
  std::iota(values.begin(), values.end(), -8.0f);  // to 23
  std::vector<std::int8_t> eight(32);
  const float scale = quantize_int8(values, eight);
  EXPECT_FLOAT_EQ(scale * static_cast<float>(eight[31]), 23.0f);
  std::vector<std::uint8_t> four(32);
  const float block_scale = quantize_block(values, 4, four);
  EXPECT_FLOAT_EQ(block_scale * (four[31] - 8.0f), 23.0f);
  for (std::size_t i = 0; i < 32; ++i)
    EXPECT_LE(std::fabs(block_scale * (four[i] - 8.0f) - values[i]), std::fabs(block_scale) * 1.01f) << i;
}

TEST(OnnxQuantize, ZerosStayZeros) {
  const std::vector<float> values(32, 0.0f);
  std::vector<std::int8_t> eight(32, 1);
  EXPECT_GT(quantize_int8(values, eight), 0.0f);
  EXPECT_THAT(eight, ::testing::Each(0));
  std::vector<std::uint8_t> four(32, 1);
  EXPECT_EQ(quantize_block(values, 4, four), 0.0f);
  EXPECT_THAT(four, ::testing::Each(8));
}

TEST(OnnxAdapter, IsAFlatBufferWithAlignedBytes) {
  const TemporaryFolder folder;
  write_onnx_adapter(folder / "a.onnx_adapter", {{"first", OnnxType::float32, {2, 1}}, {"b", OnnxType::float16, {3}}},
                     [](std::size_t i) { return std::vector<std::byte>(i == 0 ? 8 : 6, std::byte{0xab}); });
  const std::string bytes = get(folder / "a.onnx_adapter");
  EXPECT_EQ(bytes.substr(4, 4), "TORT");
  const std::size_t data = bytes.find(std::string(8, '\xab'));
  ASSERT_NE(data, std::string::npos);
  EXPECT_EQ(data % 8, 0u);
  EXPECT_EQ(bytes.substr(data - 4, 4), std::string("\x08\0\0\0", 4));
  EXPECT_EQ(bytes.rfind(std::string(6, '\xab')) % 8, 0u);
}

}  // namespace
}  // namespace tune
