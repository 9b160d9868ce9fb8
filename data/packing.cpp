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

std::int64_t trained_tokens(const RowView& row) {
  return row.trained.empty() ? 0
                             : std::count_if(row.trained.begin() + 1, row.trained.end(), [](auto t) { return t != 0; });
}

void append_document(PackedBatch& batch, const RowView& row) {
  if (batch.document_starts.empty()) batch.document_starts.push_back(0);
  const std::size_t length = row.ids.size();
  batch.ids.insert(batch.ids.end(), row.ids.begin(), row.ids.end());
  for (std::size_t i = 0; i < length; ++i) {
    const bool next_is_trained = i + 1 < length && row.trained[i + 1] != 0;
    batch.labels.push_back(next_is_trained ? row.ids[i + 1] : kNoLabel);
    batch.positions.push_back(static_cast<std::int32_t>(i));
  }
  batch.document_starts.push_back(static_cast<std::int32_t>(batch.ids.size()));
}

}  // namespace tune
