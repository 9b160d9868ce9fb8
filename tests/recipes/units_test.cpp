#include "recipes/schema/units.h"

#include <gmock/gmock.h>

#include "recipes/schema/suggest.h"
#include "tests/recipes/recipe_text.h"

namespace tune {
namespace {

TEST(Units, WholeNumbersAreDigitsOnly) {
  EXPECT_EQ(parse_whole_number("2000"), 2000);
  EXPECT_EQ(parse_whole_number("-1"), -1);
  EXPECT_EQ(parse_whole_number("+7"), 7);
  for (const char* text : {"", "2_000", "1e3", "3.0", " 3", "3 ", "0x10", "2k", "+-3", "+", "9223372036854775808"})
    EXPECT_EQ(parse_whole_number(text), std::nullopt) << text;
}

TEST(Units, NumbersAreFiniteDecimals) {
  EXPECT_EQ(parse_number("2.0e-4"), 2e-4);
  EXPECT_EQ(parse_number("2e-4"), 2e-4);
  EXPECT_EQ(parse_number("1"), 1.0);
  for (const char* text : {"", "inf", "nan", ".nan", "1e999", "1,5", "2.0e-4x"})
    EXPECT_EQ(parse_number(text), std::nullopt) << text;
}

TEST(Units, BytesKnowBothKindsOfUnits) {
  EXPECT_EQ(parse_bytes("24GiB", ""), 24LL << 30);
  EXPECT_EQ(parse_bytes("512 MiB", ""), 512LL << 20);
  EXPECT_EQ(parse_bytes("24GB", ""), 24'000'000'000);
  EXPECT_EQ(parse_bytes("1.5KiB", ""), 1536);
  EXPECT_EQ(parse_bytes("1000", ""), 1000);
  for (const char* text : {"", "GiB", "24 gigabytes", "-1GiB", "1e30GiB", "24G"}) {
    try {
      parse_bytes(text, "--device-memory");
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()),
                fmt::format("--device-memory: \"{}\" is no amount of memory; write it as 24GiB, 512MiB or 24GB", text));
    }
  }
}

TEST(Units, ADeviceHasMoreMemoryThanAForgottenUnit) {
  EXPECT_EQ(parse_device_memory("24GiB", ""), 24LL << 30);
  EXPECT_EQ(parse_device_memory("25769803776", ""), 24LL << 30);
  try {
    parse_device_memory("24", "--fits");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "--fits: \"24\" bytes is no device's memory; add the unit: 24GiB");
  }
}

TEST(Suggest, CountsOneForASwapOfNeighbours) {
  EXPECT_EQ(edit_distance("lora_r", "lora_r"), 0U);
  EXPECT_EQ(edit_distance("bf61", "bf16"), 1U);
  EXPECT_EQ(edit_distance("gguf_lora", "gguf-LORA"), 0U);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3U);
}

TEST(Suggest, StaysSilentWhereNothingIsNear) {
  EXPECT_EQ(nearest("cosin", {"constant", "cosine"}), "cosine");
  EXPECT_EQ(nearest("learning", {"learning_rate"}), "learning_rate");
  EXPECT_EQ(nearest("banana", {"constant", "cosine"}), std::nullopt);
  EXPECT_EQ(nearest(std::string(100000, 'a'), {"a"}), std::nullopt);
}

}  // namespace
}  // namespace tune
