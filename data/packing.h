#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "data/batch.h"
#include "data/row.h"

namespace tune {

/// Indices of rows that share a slot of a micro-batch.
using Slot = std::vector<std::int64_t>;

/// Puts each length into the first slot that still has room for it, in the order given; a slot holds at most `capacity`
/// tokens. Returns the slots with indices into lengths. Same lengths, same slots. O(n log n).
/// TUNE_CHECK: 0 < length <= capacity.
std::vector<Slot> first_fit(std::span<const std::int64_t> lengths, std::int64_t capacity);

/// Where the two answers of a row that is_pair() begin.
struct AnswerStarts {
  std::size_t first = 0, second = 0;
};
AnswerStarts answer_starts(const RowView& row);

/// Targets of a document: what append_document() gives a label.
std::int64_t trained_tokens(const RowView& row);

/// Lays a document, or a pair, behind those already in the batch; they don't see each other. number: of the row.
void append_document(PackedBatch& batch, const RowView& row, std::int64_t number = 0);

}  // namespace tune
