#include <gmock/gmock.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <random>

#include "tests/recipes/recipe_text.h"

namespace tune {
namespace {

using testing::HasSubstr;

std::string repeated(const std::string& text, std::size_t count) {
  std::string result;
  for (std::size_t i = 0; i < count; ++i) result += text;
  return result;
}

std::string shipped() {
  set_recipe_environment();
  std::ifstream stream(std::string(TUNE_SOURCE_DIR) + "/recipes/zephyr-support.yaml");
  return {std::istreambuf_iterator<char>(stream), {}};
}

TEST(HostileRecipe, WhatYamlHasAndRecipesHaveNotIsRefused) {
  EXPECT_EQ(complaint(kLeast + "output_dir: &a x\n"),
            "r.yaml:3:13: YAML anchors (&name) are not part of recipes; remove it");
  EXPECT_EQ(complaint(kLeast + "output_dir: !!str x\n"),
            "r.yaml:3:13: YAML tags (!name) are not part of recipes; remove it");
  EXPECT_EQ(complaint(kLeast + "---\nstage: sft\n"),
            "r.yaml: more than one YAML document; keep what stands before the second ---");
  EXPECT_THAT(complaint("a: &a [x, x]\nb: *a\n"),
              HasSubstr("r.yaml:2:4: YAML aliases (*name) are not part of recipes"));
  EXPECT_THAT(complaint(kLeast + "train: {<<: {seed: 1}}\n"), HasSubstr("YAML merge keys are not part of recipes"));
  EXPECT_THAT(complaint("- a\n- b\n"),
              HasSubstr("r.yaml:1:1: the recipe is a list; it must be sections such as model: and data:"));
}

TEST(HostileRecipe, AnAliasBombDoesNotGoOff) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 30; ++i)
    bomb += fmt::format("a{}: &a{} [{}*a{}]\n", i, i, repeated(fmt::format("*a{}, ", i - 1), 9), i - 1);
  EXPECT_THAT(complaint(bomb), HasSubstr("YAML aliases (*name) are not part of recipes"));
}

TEST(HostileRecipe, DeepNestingAndSizeAreRefusedAtOnce) {
  const auto start = std::chrono::steady_clock::now();
  for (const std::string unit : {"[", "{", "- ", "? ", "{a: ", "[? "})
    EXPECT_THAT(complaint(repeated(unit, 1'000'000 / unit.size())), HasSubstr("r.yaml:1:")) << unit;
  EXPECT_THAT(complaint(repeated("[", 1'000'000)), HasSubstr("more than 32 levels of nesting; a recipe needs five"));
  std::string stairs;
  for (int i = 0; i < 1000; ++i) stairs += std::string(static_cast<std::size_t>(i), ' ') + "a:\n";
  EXPECT_THAT(complaint(stairs), HasSubstr("r.yaml:33:33: more than 32 levels of nesting"));
  EXPECT_EQ(complaint(std::string(1024 * 1024 + 1, 'a')),
            "r.yaml: 1048577 bytes are no recipe; the largest is 1048576");
  EXPECT_THAT(complaint("stage: " + std::string(70'000, 'a')),
              HasSubstr("r.yaml:1:8: a value of 70000 bytes; the longest is 65536"));
  EXPECT_THAT(complaint(fmt::format("[{}]", repeated("a, ", 2000))),
              HasSubstr("more than 1000 entries in one section"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST(HostileRecipe, BytesThatAreNoTextAreRefusedWithTheirPlace) {
  EXPECT_EQ(complaint("stage: sft\nmodel: \xe4\n"),
            "r.yaml:2:8: byte 0xe4 is no valid UTF-8; save the recipe as UTF-8");
  EXPECT_EQ(complaint(std::string("a\0b", 3)), "r.yaml:1:2: control character 0x00; remove it");
  for (const std::string bad :
       {"\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE0\x80\x80", "\xF8", "\xE2\x82", "\xFF\xFE"})
    EXPECT_THAT(complaint("a: " + bad), HasSubstr("is no valid UTF-8"));
  EXPECT_EQ(complaint("\xEF\xBB\xBF" + kLeast), "");  // a byte order mark is harmless
}

TEST(HostileRecipe, BrokenYamlIsReportedWithItsPlace) {
  EXPECT_THAT(complaint("model: {base_model: base\n"), HasSubstr("r.yaml:2:1: this is not YAML: "));
  EXPECT_THAT(complaint("a: b: c\n"), HasSubstr("r.yaml:1:5: this is not YAML: "));
}

TEST(HostileRecipe, TruncationAtEveryByteIsReadOrRefused) {
  const std::string whole = shipped();
  for (std::size_t length = 0; length <= whole.size(); ++length) complaint(whole.substr(0, length));
}

TEST(HostileRecipe, ChangedBytesAreReadOrRefused) {
  constexpr unsigned kSeed = 20;
  std::mt19937 random(kSeed);
  const std::string whole = shipped();
  const std::string marks = "[]{}:,-?&*!|>'\"#% \n\t0a\xff";
  for (int i = 0; i < 3000; ++i) {
    std::string changed = whole;
    for (unsigned k = 0; k <= random() % 4; ++k) {
      const std::size_t at = random() % changed.size();
      if (random() % 3 == 0)
        changed.erase(at, random() % 20);
      else
        changed[at] = marks[random() % marks.size()];
    }
    complaint(changed);
  }
}

}  // namespace
}  // namespace tune
