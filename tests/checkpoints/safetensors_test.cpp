#include <random>

#include "checkpoints/safetensors/header.h"
#include "checkpoints/safetensors/named_bytes.h"
#include "checkpoints/safetensors/pickle.h"
#include "checkpoints/safetensors/reader.h"
#include "checkpoints/safetensors/writer.h"
#include "tests/checkpoints/files_helpers.h"

namespace tune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// two tensors, one of them a scalar, padded to 8 bytes
const std::string kHeader = R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                            R"("a":{"dtype":"BF16","shape":[1,2],"data_offsets":[4,8]}}   )";
const std::string kData("\x00\x00\x80\x3f\x80\x3f\x00\x40", 8);

std::span<const std::byte> as_bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

std::string refusal(const std::string& header, const std::string& data = "") {
  const std::string bytes = safetensors_bytes(header, data);
  return error_text(Fault::data, [&] { parse_safetensors_header(as_bytes(bytes), "m.safetensors"); });
}

TEST(Safetensors, ReadsBytesWrittenByHand) {
  const TemporaryFolder folder;
  put(folder / "m.safetensors", safetensors_bytes(kHeader, kData));
  const SafetensorsFile file(folder / "m.safetensors");
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.tensors()[0].name, "b");
  EXPECT_THAT(file.find("a")->shape, ElementsAre(1, 2));
  EXPECT_EQ(text_of(file.bytes("a")), kData.substr(4));
  EXPECT_EQ(file.find("c"), nullptr);
  EXPECT_THAT(error_text(Fault::data, [&] { file.bytes("c"); }), HasSubstr("has no tensor \"c\""));
}

TEST(Safetensors, WritesTheReferenceWritersBytes) {
  const TemporaryFolder folder;
  SafetensorsWriter writer(folder / "m.safetensors", {{"a", "BF16", {1, 2}}, {"b", "F32", {}}});
  writer.write_tensor("b", as_bytes(kData).subspan(0, 1));  // in pieces
  writer.write_tensor("b", as_bytes(kData).subspan(1, 3));
  writer.write_tensor("a", as_bytes(kData).subspan(4));
  writer.close();
  const std::string trimmed = kHeader.substr(0, kHeader.rfind('}') + 1);
  const std::string padded = trimmed + std::string((8 - trimmed.size() % 8) % 8, ' ');
  EXPECT_EQ(get(folder / "m.safetensors"), safetensors_bytes(padded, kData));
}

TEST(Safetensors, RoundTripKeepsEveryTensor) {
  const TemporaryFolder folder;
  const std::vector<float> matrix = {1, 2, 3, 4, 5, 6};
  const std::vector<std::int64_t> ids = {7, 8};
  write_safetensors(folder / "m", std::vector<NamedBytes>{{"matrix \"x\"\n", "F32", {2, 3}, bytes_of(matrix)},
                                                          {"empty", "F32", {0, 3}, {}},
                                                          {"ids", "I64", {2}, bytes_of(ids)}});
  const SafetensorsFile file(folder / "m");
  EXPECT_EQ(file.tensors()[0].name, "ids");  // widest first
  EXPECT_EQ(text_of(file.bytes("matrix \"x\"\n")), text_of(bytes_of(matrix)));
  EXPECT_EQ(text_of(file.bytes("ids")), text_of(bytes_of(ids)));
  EXPECT_TRUE(file.bytes("empty").empty());
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.bytes("ids").data()) % 8, 0u);
}

TEST(Safetensors, WriterHoldsItsCallerToTheOrder) {
  const TemporaryFolder folder;
  SafetensorsWriter writer(folder / "m", {{"a", "F32", {1}}, {"b", "F32", {1}}});
  EXPECT_THROW(writer.write_tensor("b", as_bytes(kData).subspan(0, 4)), Bug);
  EXPECT_THROW(writer.write_tensor("a", as_bytes(kData)), Bug);
  EXPECT_THROW(writer.close(), Bug);
}

TEST(Safetensors, RefusesWhatTheReferenceReaderRefuses) {
  const std::string a = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":)";
  EXPECT_THAT(refusal("[]"), HasSubstr("m.safetensors: is not a whole safetensors file: its header is not JSON"));
  EXPECT_THAT(refusal("{\"a\":}"), HasSubstr("not valid JSON at byte 6"));
  EXPECT_THAT(refusal("{} x"), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal("{\"\xff\":{}}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal(a + "[0,4]}}"), HasSubstr("tensors take 4 bytes, 0 follow the header"));
  EXPECT_THAT(refusal(a + "[0,4]}}", "12345"), HasSubstr("tensors take 4 bytes, 5 follow"));
  EXPECT_THAT(refusal(a + "[4,8]}}", "12345678"), HasSubstr("\"a\" begins at 4, the one before it ends at 0"));
  EXPECT_THAT(refusal(a + "[0,8]}}", "12345678"), HasSubstr("\"a\" has 8 bytes, its shape and dtype need 4"));
  EXPECT_THAT(refusal(a + "[0,4.0]}}", "1234"), HasSubstr("it must be whole"));
  EXPECT_THAT(refusal(a + "[-1,3]}}", "1234"), HasSubstr("it can't be negative"));
  EXPECT_THAT(refusal(a + "[0]}}", "1234"), HasSubstr("data_offsets of tensor \"a\" holds 1 numbers"));
  EXPECT_THAT(refusal(a + "[0,18446744073709551615]}}"), HasSubstr("too large"));
  EXPECT_THAT(refusal(a + "[0,4],\"x\":1}}", "1234"), HasSubstr("unknown key \"x\""));
  EXPECT_THAT(refusal(a + "[0,4],\"shape\":[1]}}", "1234"), HasSubstr("two keys \"shape\""));
  EXPECT_THAT(refusal(a + "[0,4]},\"a\":{}}", "1234"), HasSubstr("tensor \"a\" occurs twice"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}})", "1234"),
              HasSubstr("tensor \"a\" has dtype \"F99\""));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1]}})"), HasSubstr("lacks dtype, shape or data_offsets"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"U8","shape":[4611686018427387904,4],"data_offsets":[0,0]}})"),
              HasSubstr("the shape of tensor \"a\" is too large"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})"),
              HasSubstr("more than 16 numbers"));
  EXPECT_THAT(refusal(R"({"__metadata__":{"format":1}})"), HasSubstr("format of the metadata is a number"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":{},"shape":[1],"data_offsets":[0,4]}})"), HasSubstr("is an object"));
  EXPECT_THAT(refusal("{\"" + std::string(70'000, 'n') + "\":{}}"), HasSubstr("a tensor name is 70000 bytes long"));
  EXPECT_THAT(refusal(std::string(1'000'000, '{')), HasSubstr("is not a whole safetensors file"));
}

TEST(Safetensors, RefusesOverlaps) {
  EXPECT_THAT(refusal(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                      R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
                      "123456"),
              HasSubstr("\"b\" begins at 2, the one before it ends at 4"));
}

TEST(Safetensors, RefusesLengthsBeyondTheFile) {
  const std::string huge = std::string(7, '\xff') + '\x7f' + "{}";
  EXPECT_THAT(error_text(Fault::data, [&] { parse_safetensors_header(as_bytes(huge), "m"); }),
              HasSubstr("its header would be 9223372036854775807 bytes long"));
  const std::string longer = std::string("\x09\0\0\0\0\0\0\0{}", 10);
  EXPECT_THAT(error_text(Fault::data, [&] { parse_safetensors_header(as_bytes(longer), "m"); }),
              HasSubstr("its header is 9 bytes long, 2 are there"));
}

TEST(Safetensors, RefusesTruncationAtEveryByte) {
  const std::string whole = safetensors_bytes(kHeader, kData);
  parse_safetensors_header(as_bytes(whole), "m");
  for (std::size_t length = 0; length < whole.size(); ++length) {
    const std::string part = whole.substr(0, length);
    EXPECT_THAT(error_text(Fault::data, [&] { parse_safetensors_header(as_bytes(part), "m"); }),
                HasSubstr("copy or download it again"))
        << length;
  }
}

TEST(Safetensors, BitFlipsAreRefusedOrHarmless) {
  std::mt19937 random(20261123);
  const std::string whole = safetensors_bytes(kHeader, kData);
  const std::size_t header_bits = 8 * (8 + kHeader.size());
  for (int round = 0; round < 5000; ++round) {
    std::string damaged = whole;
    for (int flips = 0; flips <= round % 3; ++flips) {
      const std::size_t bit = random() % header_bits;
      damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    }
    try {
      for (const SafetensorsEntry& entry : parse_safetensors_header(as_bytes(damaged), "m").entries) {
        ASSERT_LE(entry.begin, entry.end);
        ASSERT_LE(entry.end, damaged.size());
        ASSERT_EQ(byte_size(entry.info), entry.end - entry.begin);
      }
    } catch (const Error& error) {
      ASSERT_EQ(error.fault(), Fault::data);
    }
  }
}

TEST(Pickle, IsKnownByItsContent) {
  EXPECT_TRUE(looks_like_pickle(as_bytes(std::string("PK\x03\x04zip of torch"))));
  EXPECT_TRUE(looks_like_pickle(as_bytes(std::string("\x80\x02}q\x00X\x01\x00\x00 ", 10))));
  EXPECT_FALSE(looks_like_pickle(as_bytes(std::string("\x80\x02\0\0\0\0\0\0{\"", 10))));  // a header of 640 bytes
  const TemporaryFolder folder;
  put(folder / "model.safetensors", "PK\x03\x04 archive/data.pkl");
  const std::string text = error_text(Fault::data, [&] { SafetensorsFile{folder / "model.safetensors"}; });
  EXPECT_THAT(text, HasSubstr("is a Python pickle"));
  EXPECT_THAT(text, HasSubstr("save_pretrained('" + folder.path().string() + "-safetensors')"));
}

}  // namespace
}  // namespace tune
