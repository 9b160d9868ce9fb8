#include "data/packing.h"

#include <algorithm>
#include <bit>

#include "recipes/schema/error.h"

namespace tune {

namespace {

// Free room of the slots as a tournament tree: node i holds the most that any slot below it has free.
class FreeRoom {
 public:
  FreeRoom(std::size_t slots, std::int64_t capacity) : leaves_(std::bit_ceil(slots)), tree_(2 * leaves_, capacity) {}

  // The first slot with that much room; there is always one, as there are as many slots as rows.
  std::size_t first_with(std::int64_t room) const {
    std::size_t node = 1;
    while (node < leaves_) node = 2 * node + (tree_[2 * node] < room ? 1 : 0);
    return node - leaves_;
  }

  void take(std::size_t slot, std::int64_t room) {
    std::size_t node = slot + leaves_;
    tree_[node] -= room;
    while (node /= 2) tree_[node] = std::max(tree_[2 * node], tree_[2 * node + 1]);
  }

 private:
  std::size_t leaves_;
  std::vector<std::int64_t> tree_;
};

}  // namespace

std::vector<Slot> first_fit(std::span<const std::int64_t> lengths, std::int64_t capacity) {
  std::vector<Slot> slots;
  if (lengths.empty()) return slots;
  FreeRoom free(lengths.size(), capacity);
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    TUNE_CHECK(lengths[i] > 0 && lengths[i] <= capacity, "row {} has {} tokens, a slot {}", i, lengths[i], capacity);
    const std::size_t slot = free.first_with(lengths[i]);
    free.take(slot, lengths[i]);
    if (slot == slots.size()) slots.emplace_back();
    slots[slot].push_back(static_cast<std::int64_t>(i));
  }
  return slots;
}

AnswerStarts answer_starts(const RowView& row) {
  const auto answer_at = [&](std::size_t i) { return row.trained[i] & kAnswers; };
  AnswerStarts starts;
  while (starts.first < row.trained.size() && answer_at(starts.first) == 0) ++starts.first;
  starts.second = starts.first;
  while (starts.second < row.trained.size() && answer_at(starts.second) == answer_at(starts.first)) ++starts.second;
  return starts;
}

std::int64_t trained_tokens(const RowView& row) {
  return row.trained.empty() ? 0 : std::count_if(row.trained.begin() + 1, row.trained.end(), is_trained);
}

namespace {

void append_pair(PackedBatch& batch, const RowView& row, std::int64_t number) {
  const auto begin = static_cast<std::int32_t>(batch.ids.size()), length = static_cast<std::int32_t>(row.ids.size());
  const auto [first, second] = answer_starts(row);
  const auto chosen = static_cast<std::int32_t>(first), rejected = static_cast<std::int32_t>(second);
  PreferencePair pair{number, begin, begin + chosen, begin + rejected, begin + length, {}, {}, {}};
  if (row.is_single()) pair.label = (row.trained[first] & kChosen) != 0;
  for (std::int32_t i = 0; i < length; ++i) {
    batch.ids.push_back(row.ids[static_cast<std::size_t>(i)]);
    batch.labels.push_back(kNoLabel);
    batch.positions.push_back(i < rejected ? i : chosen + i - rejected);
    if (i == 0 || !is_target(row.trained[static_cast<std::size_t>(i)])) continue;
    // an answer's first token is predicted from the prompt's last
    const std::int32_t before = i == rejected ? chosen - 1 : i - 1;
    (i < rejected ? pair.chosen_targets : pair.rejected_targets)
        .push_back({begin + before, row.ids[static_cast<std::size_t>(i)]});
  }
  batch.pairs.push_back(std::move(pair));
  batch.document_starts.push_back(begin + length);
}

}  // namespace

void append_document(PackedBatch& batch, const RowView& row, std::int64_t number) {
  if (batch.document_starts.empty()) batch.document_starts.push_back(0);
  if (row.is_pair()) return append_pair(batch, row, number);
  const std::size_t length = row.ids.size();
  batch.ids.insert(batch.ids.end(), row.ids.begin(), row.ids.end());
  for (std::size_t i = 0; i < length; ++i) {
    const bool next_is_trained = i + 1 < length && is_trained(row.trained[i + 1]);
    batch.labels.push_back(next_is_trained ? row.ids[i + 1] : kNoLabel);
    batch.positions.push_back(static_cast<std::int32_t>(i));
  }
  batch.document_starts.push_back(static_cast<std::int32_t>(batch.ids.size()));
}

}  // namespace tune
