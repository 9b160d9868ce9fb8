#include <cmath>
#include <random>

#include "checkpoints/onnx/adapter.h"
#include "checkpoints/onnx/quantize.h"
#include "checkpoints/onnx/weights.h"
#include "tests/checkpoints/files_helpers.h"

namespace tune {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatEq;
using ::testing::HasSubstr;
using ::testing::Pointwise;

template <typename T>
std::string raw(const std::vector<T>& values) {
  return text_of(bytes_of(values));
}

OnnxTensor tensor(const std::string& name, OnnxType type, std::vector<std::int64_t> dims, std::string bytes) {
  return {name, type, std::move(dims), std::move(bytes), {}};
}

OnnxModel model_of(std::vector<OnnxTensor> tensors, std::vector<OnnxNode> nodes) {
  OnnxModel model;
  model.opsets = {{"", 21}};
  model.initializers = std::move(tensors);
  model.nodes = std::move(nodes);
  return model;
}

OnnxNode node(const std::string& op, std::vector<std::string> inputs, OnnxAttributes attributes = {}) {
  return {op, op == "MatMulNBits" ? "com.microsoft" : "", op, std::move(inputs), {op + "_out"}, std::move(attributes)};
}

class OnnxWeightsTest : public ::testing::Test {
 protected:
  std::unique_ptr<WeightSource> open(const OnnxModel& model) {
    put(folder_ / "model.onnx", encode_onnx(model));
    std::optional<OnnxAdapterFile> adapter;
    if (std::filesystem::exists(folder_ / kOnnxAdapterFile)) adapter.emplace(folder_ / kOnnxAdapterFile);
    return open_onnx_weights(OnnxFile(folder_ / "model.onnx"), std::move(adapter));
  }

  std::vector<float> values(const WeightSource& weights, const std::string& name) {
    std::vector<float> result(static_cast<std::size_t>(element_count(*weights.find(name))));
    weights.read(name, Dtype::fp32, std::as_writable_bytes(std::span(result)));
    return result;
  }

  std::string refusal(const OnnxModel& model) {
    return error_text(Fault::data, [&] { open(model); });
  }

  TemporaryFolder folder_;
};

TEST_F(OnnxWeightsTest, WhatMatMulTakesIsTurnedBack) {
  const auto weights =
      open(model_of({tensor("a.weight", OnnxType::float32, {3, 2}, raw<float>({1, 2, 3, 4, 5, 6})),
                     tensor("norm.weight", OnnxType::float32, {2}, raw<float>({7, 8})),
                     tensor("table.weight", OnnxType::bfloat16, {2, 2}, raw<std::uint16_t>({0x3f80, 0, 0, 0xc000})),
                     tensor("constants/0", OnnxType::float32, {}, raw<float>({1}))},
                    {node("MatMul", {"x", "a.weight"}), node("Mul", {"MatMul_out", "norm.weight"}),
                     node("Cast", {"table.weight"}), node("Gather", {"Cast_out", "ids"})}));
  ASSERT_EQ(weights->tensors().size(), 3u);
  EXPECT_THAT(weights->find("a.weight")->shape, ElementsAre(2, 3));
  EXPECT_THAT(values(*weights, "a.weight"), ElementsAre(1, 3, 5, 2, 4, 6));
  EXPECT_THAT(values(*weights, "norm.weight"), ElementsAre(7, 8));
  EXPECT_THAT(values(*weights, "table.weight"), ElementsAre(1, 0, 0, -2));
}

TEST_F(OnnxWeightsTest, ScalesGoWithColumnsRowsOrBlocks) {
  std::string nibbles;  // [4 of in, 3 of out], values 1 to 12 minus 8: signed
  for (const int low : {1, 3, 5, 7, 9, 11}) nibbles += static_cast<char>((low ^ 8) | (((low + 1) ^ 8) << 4));
  const auto weights = open(model_of(
      {tensor("eight.weight", OnnxType::int8, {2, 3}, raw<std::int8_t>({1, -2, 3, 4, 5, -6})),
       tensor("eight.weight.scale", OnnxType::float32, {3}, raw<float>({1, 10, 100})),
       tensor("four.weight", OnnxType::int4, {4, 3}, nibbles),
       tensor("four.weight.scale", OnnxType::float32, {2, 3}, raw<float>({1, 10, 100, 2, 20, 200})),
       tensor("rows.weight", OnnxType::int8, {2, 2}, raw<std::int8_t>({1, 2, 3, -4})),
       tensor("rows.weight.scale", OnnxType::float32, {2, 1}, raw<float>({2, 3}))},
      {{"DequantizeLinear", "", "d", {"eight.weight", "eight.weight.scale"}, {"d"}, {{"axis", std::int64_t{1}}}},
       {"DequantizeLinear",
        "",
        "e",
        {"four.weight", "four.weight.scale"},
        {"e"},
        {{"axis", std::int64_t{0}}, {"block_size", std::int64_t{2}}}},
       node("MatMul", {"x", "d"}),
       node("MatMul", {"x", "e"}),
       node("Gather", {"rows.weight", "ids"})}));
  EXPECT_THAT(values(*weights, "eight.weight"), ElementsAre(1, 4, -20, 50, 300, -600));
  EXPECT_THAT(values(*weights, "four.weight"),
              ElementsAre(-7, -4, -1 * 2, 2 * 2, -60, -30, 0, 3 * 20, -500, -200, 200, 4 * 200));
  EXPECT_THAT(values(*weights, "rows.weight"), ElementsAre(2, 4, 9, -12));
}

TEST_F(OnnxWeightsTest, BlocksOfMatMulNBitsEndInsideOfThem) {
  constexpr std::int64_t kRows = 70, kColumns = 40;  // more rows than are read at once, half a block too many
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (const int bits : {4, 8}) {
    std::string packed;
    std::vector<float> scales, want;
    for (std::int64_t row = 0; row < kRows; ++row) {
      for (const std::int64_t count : {std::int64_t{32}, kColumns - 32}) {
        std::vector<float> block(static_cast<std::size_t>(count));
        for (float& value : block) value = normal(random);
        std::vector<std::uint8_t> quantized(block.size());
        scales.push_back(quantize_block(block, bits, quantized));
        for (const std::uint8_t value : quantized)
          want.push_back((static_cast<float>(value) - static_cast<float>(1 << (bits - 1))) * scales.back());
        quantized.resize(32);
        for (std::size_t i = 0; i < 32; i += bits == 4 ? 2 : 1)
          packed += static_cast<char>(bits == 4 ? quantized[i] | (quantized[i + 1] << 4) : quantized[i]);
      }
    }
    const OnnxAttributes sizes = {
        {"N", kRows}, {"K", kColumns}, {"bits", std::int64_t{bits}}, {"block_size", kOnnxBlock}};
    const auto weights = open(model_of({tensor("a.weight", OnnxType::uint8, {kRows, 2, 4 * bits}, packed),
                                        tensor("a.weight.scale", OnnxType::float32, {kRows, 2}, raw(scales))},
                                       {node("MatMulNBits", {"x", "a.weight", "a.weight.scale"}, sizes)}));
    EXPECT_THAT(weights->find("a.weight")->shape, ElementsAre(kRows, kColumns));
    EXPECT_THAT(values(*weights, "a.weight"), Pointwise(FloatEq(), want));
  }
}

TEST_F(OnnxWeightsTest, RefusesWhatItCouldOnlyGuess) {
  const OnnxTensor eight = tensor("a.weight", OnnxType::int8, {2, 3}, std::string(6, '\1'));
  const OnnxTensor scales = tensor("s", OnnxType::float32, {3}, std::string(12, '\0'));
  const auto dequantized = [](std::vector<std::string> inputs, std::int64_t axis) {
    return std::vector{node("DequantizeLinear", std::move(inputs), {{"axis", axis}}),
                       node("MatMul", {"x", "DequantizeLinear_out"})};
  };
  EXPECT_THAT(refusal(model_of({eight}, {})), HasSubstr("a.weight of type INT8 and shape [2, 3] is taken by no node"));
  EXPECT_THAT(refusal(model_of({eight}, {node("Gather", {"a.weight", "ids"})})),
              HasSubstr("has no 2 scales of 2 rows in a.weight.scale"));
  EXPECT_THAT(refusal(model_of({eight}, {node("MatMul", {"x", "a.weight"})})), HasSubstr("taken without a scale"));
  EXPECT_THAT(refusal(model_of({eight, scales}, dequantized({"a.weight", "s"}, 0))), HasSubstr("along another axis"));
  EXPECT_THAT(refusal(model_of({eight, scales}, dequantized({"a.weight", "s", "zero"}, 1))),
              HasSubstr("in a way that isn't read"));
  EXPECT_THAT(refusal(model_of({eight, eight, scales}, dequantized({"a.weight", "s"}, 1))),
              HasSubstr("has a.weight twice"));
  EXPECT_THAT(
      refusal(model_of({tensor("a.weight", OnnxType::float32, {0, 3}, "")}, {node("MatMul", {"x", "a.weight"})})),
      HasSubstr("isn't stored as plain bytes"));
}

TEST_F(OnnxWeightsTest, BearsAnyFlippedByte) {
  const OnnxAttributes sizes = {
      {"N", std::int64_t{1}}, {"K", std::int64_t{3}}, {"bits", std::int64_t{4}}, {"block_size", std::int64_t{4}}};
  const std::string whole = encode_onnx(model_of(
      {tensor("a.weight", OnnxType::uint8, {1, 1, 2}, "ab"), tensor("s", OnnxType::float32, {1, 1}, "1234"),
       tensor("b.weight", OnnxType::int4, {4, 1}, "ab"), tensor("t", OnnxType::float32, {2, 1}, "12345678")},
      {node("MatMulNBits", {"x", "a.weight", "s"}, sizes),
       node("DequantizeLinear", {"b.weight", "t"}, {{"axis", std::int64_t{0}}, {"block_size", std::int64_t{2}}}),
       node("MatMul", {"x", "DequantizeLinear_out"})}));
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const char flip : {'\x01', '\x08', '\x80', '\xff'}) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ flip);
      put(folder_ / "model.onnx", bytes);
      try {
        const auto weights = open_onnx_weights(OnnxFile(folder_ / "model.onnx"), std::nullopt);
        for (const TensorInfo& info : weights->tensors()) values(*weights, info.name);
      } catch (const Error& error) {
        EXPECT_EQ(error.fault(), Fault::data);
      }
    }
  }
}

// ---- an adapter beside it ----

constexpr const char *kA = "m.lora_A.weight", *kB = "m.lora_B.weight";

OnnxModel adaptable_model() {
  OnnxModel model = model_of({tensor("m.weight", OnnxType::float32, {3, 2}, raw<float>({1, 2, 3, 4, 5, 6})),
                              tensor(kA, OnnxType::float32, {3, 0}, ""), tensor(kB, OnnxType::float32, {0, 2}, "")},
                             {node("MatMul", {"x", "m.weight"}), node("MatMul", {"x", kA}), node("MatMul", {"y", kB})});
  model.inputs = {{kA, OnnxType::float32, {std::int64_t{3}, std::string("lora_r")}},
                  {kB, OnnxType::float32, {std::string("lora_r"), std::int64_t{2}}}};
  return model;
}

void write_factors(const std::filesystem::path& path, std::int64_t rank_of_b = 1) {
  write_onnx_adapter(path, {{kA, OnnxType::float32, {3, 1}}, {kB, OnnxType::float16, {rank_of_b, 2}}},
                     [&](std::size_t i) {
                       const std::string bytes =
                           i == 0 ? raw<float>({1, 2, 3})
                                  : raw(std::vector<std::uint16_t>(static_cast<std::size_t>(rank_of_b) * 2, 0x4900));
                       return std::vector<std::byte>(reinterpret_cast<const std::byte*>(bytes.data()),
                                                     reinterpret_cast<const std::byte*>(bytes.data()) + bytes.size());
                     });
}

TEST_F(OnnxWeightsTest, AnAdapterBesideItIsAdded) {
  write_factors(folder_ / kOnnxAdapterFile);  // B is ten, twice
  const auto weights = open(adaptable_model());
  ASSERT_EQ(weights->tensors().size(), 1u);
  EXPECT_THAT(values(*weights, "m.weight"), ElementsAre(1 + 10, 3 + 20, 5 + 30, 2 + 10, 4 + 20, 6 + 30));
}

TEST_F(OnnxWeightsTest, AnAdapterThatIsMissingOrAnothersIsRefused) {
  EXPECT_THAT(refusal(adaptable_model()), HasSubstr("there is no adapter.onnx_adapter beside it"));
  write_factors(folder_ / kOnnxAdapterFile, 2);
  EXPECT_THAT(refusal(adaptable_model()), HasSubstr("has no pair of factors that fits m.weight"));
  write_factors(folder_ / kOnnxAdapterFile);
  OnnxModel other = adaptable_model();
  other.inputs.pop_back();
  other.initializers.pop_back();
  EXPECT_THAT(refusal(other), HasSubstr("has m.lora_B.weight, which model.onnx doesn't take"));
}

// Whatever is lost of a file or wrong in it: an error with a remedy, never a crash.
TEST(OnnxAdapterFile, BearsAnyCutAndAnyFlippedByte) {
  const TemporaryFolder folder;
  write_factors(folder / "whole");
  const std::string whole = get(folder / "whole");
  const auto try_bytes = [&](const std::string& bytes) {
    put(folder / "a", bytes);
    try {
      const OnnxAdapterFile file(folder / "a");
      return true;
    } catch (const Error& error) {
      EXPECT_EQ(error.fault(), Fault::data);
      return false;
    }
  };
  EXPECT_TRUE(try_bytes(whole));
  for (std::size_t length = 0; length < whole.size(); ++length) EXPECT_FALSE(try_bytes(whole.substr(0, length)));
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const char flip : {'\x01', '\x80', '\xff'}) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ flip);
      try_bytes(bytes);
    }
  }
}

}  // namespace
}  // namespace tune
