#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "checkpoints/huggingface/convert.h"
#include "recipes/schema/error.h"
#include "tools/export/stream.h"

namespace tune {
namespace {

using ::testing::HasSubstr;

/// One matrix of 3 columns, all ones but for the value at one place.
class OneMatrix : public WeightSource {
 public:
  OneMatrix(std::int64_t rows, std::size_t at, float value)
      : infos_{{"w", "F32", {rows, 3}}}, values_(static_cast<std::size_t>(rows) * 3, 1.0f) {
    values_[at] = value;
  }
  const std::vector<TensorInfo>& tensors() const override { return infos_; }
  void read(std::string_view, Dtype, std::span<std::byte> destination) const override {
    std::memcpy(destination.data(), values_.data(), destination.size());
  }
  void read_rows(std::string_view, std::int64_t first, std::int64_t, Dtype,
                 std::span<std::byte> destination) const override {
    std::memcpy(destination.data(), values_.data() + first * 3, destination.size());
  }

 private:
  std::vector<TensorInfo> infos_;
  std::vector<float> values_;
};

/// What streaming the matrix as `dtype` complains about, "" = nothing.
std::string complaint(Dtype dtype, std::size_t at, float value) {
  const OneMatrix weights(200'000, at, value);  // three blocks
  const RowEncoding encoding{.type = dtype_name(dtype), .overflow = overflow_of(dtype), .encode = [&](auto rows) {
                               std::vector<std::byte> bytes(rows.size() * element_bytes(dtype));
                               convert_elements("F32", std::as_bytes(rows), dtype, bytes);
                               return bytes;
                             }};
  try {
    stream_tensor(weights, weights.tensors()[0], 1, encoding, [](auto) {});
  } catch (const Error& error) {
    EXPECT_EQ(error.fault(), Fault::data);
    return error.what();
  }
  return "";
}

TEST(Stream, NamesTensorAndRowOfWhatIsNoNumber) {
  EXPECT_THAT(complaint(Dtype::fp32, 3 * 150'000 + 1, NAN), HasSubstr("tensor w holds nan in row 150000; "));
  EXPECT_THAT(complaint(Dtype::bf16, 5, -INFINITY), HasSubstr("tensor w holds -inf in row 1; "));
}

TEST(Stream, RefusesExactlyWhatRoundsToInfinity) {
  EXPECT_EQ(complaint(Dtype::fp16, 0, -65519.99f), "");
  EXPECT_THAT(complaint(Dtype::fp16, 0, -65520.0f), HasSubstr("holds -65520 in row 0, too large for F16; "));
  EXPECT_EQ(complaint(Dtype::bf16, 0, std::nextafter(0x1.FFp127f, 0.0f)), "");
  EXPECT_THAT(complaint(Dtype::bf16, 0, 0x1.FFp127f), HasSubstr("too large for BF16"));
  EXPECT_EQ(complaint(Dtype::fp32, 0, std::numeric_limits<float>::max()), "");
}

}  // namespace
}  // namespace tune
