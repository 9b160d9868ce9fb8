#pragma once
#include <cstdint>
#include <optional>
#include <vector>

namespace tune {

inline constexpr std::int64_t kNoLabel = -100;

/// A token to predict, and the row of the batch whose hidden state predicts it.
struct Target {
  std::int64_t row = 0, label = 0;
};

/// A document that is a prompt [start, chosen) and two answers to it, [chosen, rejected) and [rejected, end): each of
/// them sees the prompt and itself, and its positions follow the prompt's. The prompt is there once. With a label, the
/// row has one answer, good or bad, which stands in the place of the chosen one; that in the place of the rejected one
/// is another row's.
struct PreferencePair {
  std::int64_t number = 0;  // of the row in its data set
  std::int32_t start = 0, chosen = 0, rejected = 0, end = 0;
  std::vector<Target> chosen_targets, rejected_targets;
  std::optional<bool> label;  // true: good
};

/// Documents laid end to end without padding: one micro-batch. All vectors but document_starts and pairs have one entry
/// a token.
struct PackedBatch {
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> labels;     // the NEXT id of the same document where that one is trained, else kNoLabel
  std::vector<std::int32_t> positions;  // restart at 0 with every document
  std::vector<std::int32_t> document_starts;  // index of each document's first token, then the number of tokens
  std::vector<PreferencePair> pairs;          // of stage dpo, each document is one, and there are no labels

  std::int64_t tokens() const { return static_cast<std::int64_t>(ids.size()); }
  std::int64_t trained_tokens() const;
};

/// The micro-batch of one document, of which no token is trained.
PackedBatch one_document(const std::vector<std::int32_t>& ids);

}  // namespace tune
