#include <gmock/gmock.h>

#include "data/packing.h"

namespace tune {
namespace {

using testing::ElementsAre;
using testing::FieldsAre;

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

}  // namespace
}  // namespace tune
