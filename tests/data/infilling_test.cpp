#include "data/infilling.h"

#include <algorithm>

#include "data_fakes.h"

namespace tune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::int32_t kEos = 256, kPrefix = 257, kSuffix = 258, kMiddle = 259, kEnd = 260, kBos = 261, kDummy = 262;

// One id a byte, and a dummy token where a text begins.
class CodeTokenizer final : public Tokenizer {
 public:
  explicit CodeTokenizer(bool has_marks = true) : has_marks_(has_marks) {
    bos_id = kBos;
    eos_id = kEos;
    add_bos = true;
  }
  using Tokenizer::encode;
  Encoding encode(std::string_view text, TextPart part) const override {
    Encoding encoding;
    const auto add = [&](std::int32_t id, std::size_t begin) {
      encoding.ids.push_back(id);
      encoding.begin.push_back(static_cast<std::int32_t>(begin));
    };
    if (begins(part) && !text.empty()) add(kDummy, 0);
    std::size_t character = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const auto byte = static_cast<unsigned char>(text[i]);
      if ((byte & 0xC0) != 0x80) character = i;
      add(byte, character);
    }
    return encoding;
  }
  std::string decode(std::span<const std::int32_t>, bool) const override { return ""; }
  std::int64_t vocab_size() const override { return 263; }
  std::optional<std::int32_t> token_id(std::string_view token) const override {
    if (!has_marks_) return std::nullopt;
    return token == "▁<PRE>"   ? kPrefix
           : token == "▁<SUF>" ? kSuffix
           : token == "▁<MID>" ? kMiddle
           : token == "▁<EOT>" ? std::optional(kEnd)
                               : std::nullopt;
  }
  std::string token_text(std::int32_t) const override { return ""; }
  bool is_special(std::int32_t id) const override { return id >= 256; }

 private:
  bool has_marks_;
};

const CodeTokenizer kTokenizer;

Encoder encoder(std::int64_t max_length = 64, Overflow overflow = Overflow::error,
                TrainOn train_on = TrainOn::assistant) {
  return {kTokenizer, find_template("none"), train_on, overflow, max_length};
}

DatasetOptions options(double rate, double spm_rate) {
  return {.path = "a.jsonl", .type = DatasetType::fim, .fim_rate = rate, .fim_spm_rate = spm_rate};
}

Record record(const std::string& text, std::int64_t line = 1) {
  Record record;
  record.text = text;
  record.place = {"a.jsonl", line};
  return record;
}

Record record_with_middle(const std::string& text, std::size_t begin, std::size_t end) {
  Record result = record(text);
  result.middle = {begin, end};
  return result;
}

// The bytes of the text that a row without specials stands for; of a row that was cut, its parts in order.
std::string text_of(const Row& row) {
  std::string prefix, middle, suffix;
  std::string* part = &prefix;
  for (std::size_t i = 0; i < row.ids.size(); ++i) {
    const std::int32_t id = row.ids[i];
    if (id == kSuffix) part = &suffix;
    if (id == kMiddle) part = &middle;
    // SPM: the prefix begins with a dummy behind the mark, and nobody says where it ends
    if (id < 256) *part += static_cast<char>(id);
  }
  return prefix + middle + suffix;
}

TEST(Infiller, LaysOutPrefixSuffixMiddle) {
  const Encoder all = encoder(64, Overflow::error, TrainOn::all), middle_only = encoder();
  const Record row = record_with_middle("abc", 1, 2);
  const auto first = [&](const Encoder& encoder, double spm_rate) {
    return Infiller(options(0, spm_rate), encoder, 42).encode(row).pieces.at(0);
  };
  EXPECT_THAT(first(all, 0).ids, ElementsAre(kBos, kPrefix, kDummy, 'a', kSuffix, 'c', kMiddle, 'b', kEnd));
  EXPECT_THAT(first(all, 0).trained, ElementsAre(0, 1, 1, 1, 1, 1, 1, 1, 1));
  EXPECT_THAT(first(middle_only, 0).trained, ElementsAre(0, 0, 0, 0, 0, 0, 0, 1, 1));
  EXPECT_THAT(first(all, 1).ids, ElementsAre(kBos, kPrefix, kSuffix, 'c', kMiddle, kDummy, 'a', 'b', kEnd));
  EXPECT_THAT(first(middle_only, 1).trained, ElementsAre(0, 0, 0, 0, 0, 0, 0, 1, 1));
}

TEST(Infiller, LeavesTextsWhole) {
  const Encoder encoder_of_rows = encoder();
  const Row row = Infiller(options(0, 0), encoder_of_rows, 42).encode(record("ab")).pieces.at(0);
  EXPECT_THAT(row.ids, ElementsAre(kBos, kDummy, 'a', 'b', kEos));
  EXPECT_THAT(row.trained, ElementsAre(0, 1, 1, 1, 1));
}

TEST(Infiller, CutsBetweenCharactersOnly) {
  const Encoder encoder_of_rows = encoder();
  const Infiller infiller(options(1, 0), encoder_of_rows, 42);
  const std::string text = "é🙂ß";
  std::vector<std::string> middles;
  for (std::int64_t line = 0; line < 400; ++line) {
    const Row row = infiller.encode(record(text, line)).pieces.at(0);
    EXPECT_EQ(text_of(row), text);
    std::string middle;
    for (std::size_t i = 0; i < row.ids.size(); ++i)
      if (row.trained[i] && row.ids[i] < 256) middle += static_cast<char>(row.ids[i]);
    if (std::find(middles.begin(), middles.end(), middle) == middles.end()) middles.push_back(middle);
  }
  EXPECT_THAT(middles, ::testing::UnorderedElementsAre("", "é", "🙂", "ß", "é🙂", "🙂ß", "é🙂ß"));
}

TEST(Infiller, FollowsFromSeedTextAndLine) {
  const Encoder encoder_of_rows = encoder();
  const auto ids = [&](std::int64_t seed, const std::string& text, std::int64_t line) {
    return Infiller(options(1, 0.5), encoder_of_rows, seed).encode(record(text, line)).pieces.at(0).ids;
  };
  const std::string text = "def add(x, y): return x + y";
  EXPECT_EQ(ids(1, text, 1), ids(1, text, 1));
  EXPECT_NE(ids(1, text, 1), ids(2, text, 1));
  EXPECT_NE(ids(1, text, 1), ids(1, text, 2));
}

TEST(Infiller, GivesEveryPieceOfALongTextItsMiddle) {
  std::string text;
  for (int i = 0; i < 200; ++i) text += "línea " + std::to_string(i) + "\n";
  const Encoder split = encoder(40, Overflow::split);
  const Encoded encoded = Infiller(options(1, 0), split, 42).encode(record(text));
  EXPECT_EQ(encoded.fit, Fit::split);
  std::string together;
  for (const Row& row : encoded.pieces) {
    EXPECT_LE(row.ids.size(), 40U);
    EXPECT_EQ(row.ids.back(), kEnd);
    together += text_of(row);
  }
  EXPECT_EQ(together, text);

  const Encoder truncate = encoder(40, Overflow::truncate);
  const Encoded beginning = Infiller(options(1, 0), truncate, 42).encode(record(text));
  EXPECT_EQ(beginning.fit, Fit::truncated);
  ASSERT_EQ(beginning.pieces.size(), 1U);
  EXPECT_EQ(beginning.pieces[0].ids, encoded.pieces[0].ids);
}

TEST(Infiller, EndsATextInPiecesOnce) {
  const std::string text(100, 'x');
  const Encoder split = encoder(40, Overflow::split);
  const Encoded encoded = Infiller(options(0, 0), split, 42).encode(record(text));
  ASSERT_EQ(encoded.pieces.size(), 3U);
  EXPECT_EQ(encoded.pieces[0].ids.front(), kBos);
  EXPECT_EQ(encoded.pieces[0].ids.back(), 'x');
  EXPECT_EQ(encoded.pieces[1].ids.front(), 'x');
  EXPECT_EQ(encoded.pieces[2].ids.back(), kEos);
}

TEST(Infiller, LosesContextOnBothSidesOfAMiddle) {
  const std::string text = std::string(100, 'p') + "middle" + std::string(100, 's');
  const Encoder truncate = encoder(40, Overflow::truncate);
  const Infiller infiller(options(1, 0), truncate, 42);
  const Encoded encoded = infiller.encode(record_with_middle(text, 100, 106));
  EXPECT_EQ(encoded.fit, Fit::truncated);
  const std::string kept = text_of(encoded.pieces.at(0));
  EXPECT_GE(kept.size(), 30U);
  EXPECT_THAT(kept, HasSubstr("ppppppmiddlessssss"));
  EXPECT_EQ(infiller.encode(record_with_middle(text, 50, 150)).fit, Fit::too_long);
  // What one side has not, the other may have.
  EXPECT_THAT(text_of(infiller.encode(record_with_middle(text, 2, 4)).pieces.at(0)), HasSubstr(std::string(25, 'p')));
}

TEST(Infiller, RefusesWhatIsTooLong) {
  const Encoder encoder_of_rows = encoder(32);
  const Encoded encoded = Infiller(options(1, 0), encoder_of_rows, 42).encode(record(std::string(40, 'x')));
  ASSERT_TRUE(encoded.refused);
  EXPECT_THAT(encoded.refused->what(), HasSubstr("the row has 46 tokens; data.max_length is 32"));
}

TEST(Infiller, NeedsATokenizerWithTheTokens) {
  const CodeTokenizer without(false);
  const Encoder encoder_of_rows{without, find_template("none"), TrainOn::all, Overflow::error, 64};
  EXPECT_EQ(
      error_of([&] { Infiller(options(1, 0), encoder_of_rows, 42); }, Fault::recipe),
      "a.jsonl is of type fim, but the model has no token ▁<PRE>, so it can't fill in; take Code Llama 7B, 13B or "
      "70B, base or Instruct (its 34B and Python models can't either), or write type: text");
}

}  // namespace
}  // namespace tune
