#include "data/packing.h"

#include <gmock/gmock.h>

#include <numeric>
#include <random>

namespace tune {
namespace {

using ::testing::ElementsAre;

TEST(Packing, PutsEachRowIntoTheFirstSlotWithRoom) {
  EXPECT_THAT(first_fit(std::vector<std::int64_t>{6, 5, 4, 5, 1}, 10),
              ElementsAre(ElementsAre(0, 2), ElementsAre(1, 3), ElementsAre(4)));
  EXPECT_TRUE(first_fit({}, 10).empty());
}

// The definition, in O(n^2).
std::vector<Slot> plain_first_fit(const std::vector<std::int64_t>& lengths, std::int64_t capacity) {
  std::vector<Slot> slots;
  std::vector<std::int64_t> free;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    std::size_t slot = 0;
    while (slot < slots.size() && free[slot] < lengths[i]) ++slot;
    if (slot == slots.size()) slots.emplace_back(), free.push_back(capacity);
    slots[slot].push_back(static_cast<std::int64_t>(i));
    free[slot] -= lengths[i];
  }
  return slots;
}

TEST(Packing, IsFirstFitByDefinition) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::int64_t> lengths(random() % 100);
    for (auto& length : lengths) length = 1 + random() % 40;
    EXPECT_EQ(first_fit(lengths, 40), plain_first_fit(lengths, 40));
  }
}

TEST(Packing, KeepsDocumentsApart) {
  const std::vector<std::int32_t> one = {11, 12, 13}, two = {21, 22};
  const std::vector<std::uint8_t> mask_one = {0, 0, 1}, mask_two = {1, 1};
  PackedBatch batch;
  append_document(batch, {one, mask_one});
  append_document(batch, {two, mask_two});
  EXPECT_THAT(batch.ids, ElementsAre(11, 12, 13, 21, 22));
  EXPECT_THAT(batch.positions, ElementsAre(0, 1, 2, 0, 1));
  EXPECT_THAT(batch.document_starts, ElementsAre(0, 3, 5));
  // 13 is trained, so 12 has it as its label; 21 is trained, but nothing of its document comes before it
  EXPECT_THAT(batch.labels, ElementsAre(kNoLabel, 13, kNoLabel, 22, kNoLabel));
  EXPECT_EQ(batch.trained_tokens(), 2);
}

}  // namespace
}  // namespace tune
