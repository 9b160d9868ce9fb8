#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace tune {

/// A token of a word: its id and the offset in bytes of the word where it begins.
struct BpeToken {
  std::int32_t id;
  std::int32_t begin;
};

/// What a BPE model is made of. A merge is a pair of tokens; its rank is its index, and both tokens and what they make
/// together are in the vocabulary.
struct BpeModel {
  std::unordered_map<std::string, std::int32_t> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;
  std::optional<std::string> unknown;  // for characters that aren't in the vocabulary; none: they are left out
  bool byte_fallback = false;          // such a character becomes its bytes' tokens <0x00> ... <0xFF>
  bool fuse_unknown = false;           // neighbouring unknowns become one
  bool ignore_merges = false;          // a word that is a token is taken whole
};

/// Byte pair encoding by rank, leftmost first, in O(n log n) of the word's length. Thread-safe.
class Bpe {
 public:
  /// Error{Fault::data} where a merge speaks of tokens that aren't in the vocabulary. name: the file.
  Bpe(const BpeModel& model, const std::string& name);

  std::vector<BpeToken> encode(std::string_view word) const;

  std::int32_t size() const { return static_cast<std::int32_t>(tokens_.size()); }  // highest id + 1
  std::optional<std::int32_t> token_id(std::string_view token) const;
  const std::string& token_text(std::int32_t id) const { return tokens_[id]; }

 private:
  struct Merge {
    std::int32_t rank, id;
  };
  struct Symbol {
    std::int32_t id, begin, previous, next;  // previous, next: indices, -1 at the ends
    bool dead = false;
  };

  std::vector<Symbol> split(std::string_view word) const;
  const Merge* merge_of(std::int32_t left, std::int32_t right) const;

  std::vector<std::string> tokens_;
  std::unordered_map<std::string_view, std::int32_t> ids_;
  std::unordered_map<std::uint64_t, Merge> merges_;
  std::optional<std::int32_t> unknown_id_;
  std::vector<std::int32_t> byte_ids_;  // of the 256 byte tokens; empty without byte fallback, -1 where one is missing
  bool fuse_unknown_, ignore_merges_;
};

}  // namespace tune
