#include <fmt/format.h>
#include <gmock/gmock.h>

#include "data/dataset.h"
#include "data/packing.h"
#include "data_fakes.h"

namespace tune {
namespace {

using testing::ElementsAre;
using testing::FieldsAre;
using testing::HasSubstr;

// prompt 1 2 | chosen 3 4 5, of which 4 and 5 are trained | rejected 6 7, both trained
constexpr std::uint8_t C = kChosen, R = kRejected, T = kTrained;
const Row kPair{{1, 2, 3, 4, 5, 6, 7}, {0, 0, C, C | T, C | T, R | T, R | T}, {}};

TEST(Pairs, AnswersFollowThePromptAndPredictTheirOwn) {
  PackedBatch batch;
  append_document(batch, {kPair.ids, kPair.trained}, 12);
  append_document(batch, {kPair.ids, kPair.trained}, 13);
  EXPECT_THAT(batch.ids, ElementsAre(1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_THAT(batch.positions, ElementsAre(0, 1, 2, 3, 4, 2, 3, 0, 1, 2, 3, 4, 2, 3));
  EXPECT_THAT(batch.document_starts, ElementsAre(0, 7, 14));
  EXPECT_THAT(batch.labels, testing::Each(kNoLabel));
  ASSERT_EQ(batch.pairs.size(), 2U);
  const PreferencePair& second = batch.pairs[1];
  EXPECT_EQ(second.number, 13);
  EXPECT_EQ(second.start, 7);
  EXPECT_EQ(second.chosen, 9);
  EXPECT_EQ(second.rejected, 12);
  EXPECT_EQ(second.end, 14);
  EXPECT_THAT(second.chosen_targets, ElementsAre(FieldsAre(9, 4), FieldsAre(10, 5)));
  EXPECT_THAT(second.rejected_targets, ElementsAre(FieldsAre(8, 6), FieldsAre(12, 7)));  // 6 from the prompt's last
  EXPECT_EQ(batch.trained_tokens(), 8);
  EXPECT_EQ(trained_tokens(RowView{kPair.ids, kPair.trained}), 4);
}

TEST(Pairs, AreKnownByTheirMarks) {
  EXPECT_TRUE((RowView{kPair.ids, kPair.trained}.is_pair()));
  const std::vector<std::uint8_t> plain = {0, 1, 1};
  EXPECT_FALSE((RowView{{}, plain}.is_pair()));
  EXPECT_FALSE(RowView{}.is_pair());
}

constexpr std::uint8_t M = kMismatched;

TEST(SingleAnswer, LiesBeforeAnothersThatIsNotLearned) {
  const Row row{{1, 2, 3, 4, 5, 6}, {0, 0, R | T, R | T, M | T, M}, {}};
  PackedBatch batch;
  append_document(batch, {row.ids, row.trained}, 3);
  ASSERT_EQ(batch.pairs.size(), 1U);
  const PreferencePair& single = batch.pairs[0];
  EXPECT_EQ(single.label, false);
  EXPECT_EQ(single.chosen, 2);
  EXPECT_EQ(single.rejected, 4);
  EXPECT_THAT(single.chosen_targets, ElementsAre(FieldsAre(1, 3), FieldsAre(2, 4)));
  EXPECT_THAT(single.rejected_targets, ElementsAre(FieldsAre(1, 5)));
  EXPECT_EQ(batch.trained_tokens(), 2);
  EXPECT_EQ(trained_tokens(RowView{row.ids, row.trained}), 2);
}

class SingleAnswers : public DataTest {
 protected:
  void SetUp() override {
    DataTest::SetUp();
    data_.chat_template = "none";
    data_.max_length = 20;
  }

  void add(const std::string& prompt, const std::string& answer, bool label = true) {
    text_ += fmt::format("{{\"prompt\": \"{}\", \"completion\": \"{}\", \"label\": {}}}\n", prompt, answer, label);
  }

  std::unique_ptr<TokenDataset> tokens(AuditCounts* counts = nullptr) {
    data_.datasets = {{.path = file("a.jsonl", text_), .type = DatasetType::unpaired_preference}};
    return tokenize(data_, data_.datasets, false, ByteTokenizer(), find_template("none"), Stage::dpo, 42, {}, counts);
  }

  // Each row as "line: text".
  std::vector<std::string> rows(AuditCounts* counts = nullptr) {
    const auto tokenised = tokens(counts);
    std::vector<std::string> all;
    for (std::int64_t i = 0; i < tokenised->size(); ++i)
      all.push_back(
          fmt::format("{}: {}", tokenised->place(i).line, ByteTokenizer().decode(tokenised->row(i).ids, false)));
    return all;
  }

  DataOptions data_;
  std::string text_;
};

TEST_F(SingleAnswers, AreGivenThoseToThePromptBefore) {
  for (const auto& [prompt, answer] :
       {std::pair("p", "1"), {"p", "2"}, {"q", "3"}, {"r", "4"}, {"r", "5"}, {"r", "6"}, {"p", "7"}, {"p", "8"}})
    add(prompt, answer);
  EXPECT_THAT(rows(), ElementsAre("1: p1</s>3</s>", "2: p2</s>3</s>", "3: q3</s>1</s>", "4: r4</s>3</s>",
                                  "5: r5</s>3</s>", "6: r6</s>3</s>", "7: p7</s>4</s>", "8: p8</s>5</s>"));
}

TEST_F(SingleAnswers, SayWhetherTheyAreGood) {
  add("p", "1", true);
  add("q", "2", false);
  const auto rows = tokens();
  EXPECT_THAT(rows->row(0).trained, ElementsAre(0, C | T, C | T, M | T, M | T));
  EXPECT_THAT(rows->row(1).trained, ElementsAre(0, R | T, R | T, M | T, M | T));
  EXPECT_EQ(rows->taped_length(0), 3);
  EXPECT_EQ(rows->attended_length(0), 3);
}

TEST_F(SingleAnswers, FitTogetherWithTheOther) {
  add("p", "123456");
  add("q", "a long answer of 24 ids");
  add("r", "an answer of 16");
  add("s", "4");
  const std::string said = error_of([&] { rows(); });
  EXPECT_THAT(said, HasSubstr("a.jsonl:1: the row has 24 tokens with the answer that it is compared with"));
  EXPECT_THAT(said, HasSubstr("a.jsonl:2: the row has 25 tokens; data.max_length is 20"));
  EXPECT_THAT(said, HasSubstr("a.jsonl:3: the row has 24 tokens with"));
  EXPECT_THAT(said, testing::Not(HasSubstr("a.jsonl:4")));
  data_.overflow = Overflow::drop;
  AuditCounts counts;
  EXPECT_THAT(rows(&counts), ElementsAre("4: s4</s>an answer of 16</s>"));
  EXPECT_EQ(counts.total().dropped_too_long, 3);
  EXPECT_EQ(counts.total().trained_tokens, 2);
}

TEST_F(SingleAnswers, NeedTwoPrompts) {
  add("p", "1");
  add("p", "2");
  EXPECT_THAT(error_of([&] { rows(); }), HasSubstr("a.jsonl:1: all rows of the file have the same prompt"));
}

}  // namespace
}  // namespace tune
