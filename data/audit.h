#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace tune {

/// What became of one data set's rows. rows = kept + dropped_too_long + dropped_untrained, with pieces counted apart.
struct SourceCounts {
  std::string file;
  std::int64_t rows = 0;               // read, without those held out
  std::int64_t refused = 0;            // can't be used; they end the command and aren't among the rows
  std::int64_t kept = 0;               // rows of which at least a piece is trained on
  std::int64_t pieces = 0;             // documents they became; more than kept only under overflow: split
  std::int64_t dropped_too_long = 0;   // overflow: drop
  std::int64_t dropped_untrained = 0;  // nothing in them is trained (on)
  std::int64_t truncated = 0;          // overflow: truncate
  std::int64_t split = 0;              // overflow: split
  std::int64_t duplicates = 0;         // rows equal to an earlier row; they are kept
  std::int64_t tokens = 0;
  std::int64_t trained_tokens = 0;  // tokens that are targets
  std::int64_t longest = 0;         // tokens of the longest document

  double trained_share() const;  // of the tokens, 0 when there are none
};

struct AuditCounts {
  std::vector<SourceCounts> sources;  // as in the recipe
  /// Documents by length: histogram[k] counts those with 2^k ... 2^(k+1) - 1 tokens.
  std::array<std::int64_t, 32> histogram{};

  SourceCounts total() const;
};

/// Counts a document that is kept.
void count_document(AuditCounts& counts, std::size_t source, std::int64_t tokens, std::int64_t trained_tokens);

/// A sentence for each data set with a document of more tokens than the model's `positions`. Rotary embeddings go on
/// beyond those, as Code Llama's do on purpose; most models get worse there. Packed rows are no concern: each document
/// begins at position 0.
std::vector<std::string> long_row_warnings(const AuditCounts& counts, std::int64_t positions);

std::string to_json(const AuditCounts& counts);
AuditCounts audit_from_json(const std::string& text);

}  // namespace tune
