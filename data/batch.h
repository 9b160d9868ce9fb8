#pragma once
#include <cstdint>
#include <vector>

namespace tune {

inline constexpr std::int64_t kNoLabel = -100;

/// Documents laid end to end without padding: one micro-batch. All vectors but document_starts have one entry a token.
struct PackedBatch {
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> labels;     // the NEXT id of the same document where that one is trained, else kNoLabel
  std::vector<std::int32_t> positions;  // restart at 0 with every document
  std::vector<std::int32_t> document_starts;  // index of each document's first token, then the number of tokens

  std::int64_t tokens() const { return static_cast<std::int64_t>(ids.size()); }
  std::int64_t trained_tokens() const;
};

/// The micro-batch of one document, of which no token is trained.
PackedBatch one_document(const std::vector<std::int32_t>& ids);

}  // namespace tune
