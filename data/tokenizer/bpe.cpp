#include "data/tokenizer/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <queue>

#include "data/tokenizer/piece_text.h"
#include "data/tokenizer/utf8.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

constexpr std::int32_t kMaxTokens = 4'000'000;

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

[[noreturn]] void refuse(const std::string& name, const std::string& what) {
  throw Error{Fault::data, Place{name}, what, "copy the tokenizer again from where the model was published"};
}

}  // namespace

Bpe::Bpe(const BpeModel& model, const std::string& name)
    : fuse_unknown_(model.fuse_unknown), ignore_merges_(model.ignore_merges) {
  if (model.vocabulary.empty()) refuse(name, "the vocabulary is empty");
  for (const auto& [token, id] : model.vocabulary) {
    if (id < 0 || id >= kMaxTokens)
      refuse(name, fmt::format("token \"{}\" has the id {}; ids are 0 to {}", token, id, kMaxTokens - 1));
    if (id >= size()) tokens_.resize(id + 1);
    tokens_[id] = token;
  }
  for (const auto& [token, id] : model.vocabulary) {
    if (tokens_[id] != token)
      refuse(name, fmt::format("tokens \"{}\" and \"{}\" have the same id {}", token, tokens_[id], id));
    ids_.emplace(tokens_[id], id);
  }
  const auto required = [&](const std::string& token, std::size_t rank) {
    const auto id = token_id(token);
    if (!id) refuse(name, fmt::format("merge {} needs the token \"{}\", which isn't in the vocabulary", rank, token));
    return *id;
  };
  for (std::size_t rank = 0; rank < model.merges.size(); ++rank) {
    const auto& [left, right] = model.merges[rank];
    const Merge merge{static_cast<std::int32_t>(rank), required(left + right, rank)};
    merges_[pair_key(required(left, rank), required(right, rank))] = merge;
  }
  if (model.unknown) unknown_id_ = token_id(*model.unknown);
  if (model.byte_fallback) {
    for (int byte = 0; byte < 256; ++byte)
      byte_ids_.push_back(token_id(piece_of_byte(static_cast<std::uint8_t>(byte))).value_or(-1));
  }
}

std::optional<std::int32_t> Bpe::token_id(std::string_view token) const {
  const auto found = ids_.find(token);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

const Bpe::Merge* Bpe::merge_of(std::int32_t left, std::int32_t right) const {
  const auto found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

std::vector<Bpe::Symbol> Bpe::split(std::string_view word) const {
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  const auto add = [&](std::int32_t id, std::size_t begin) {
    const auto index = static_cast<std::int32_t>(symbols.size());
    symbols.push_back({id, static_cast<std::int32_t>(begin), index - 1, index + 1});
  };
  bool after_unknown = false;
  for (std::size_t i = 0; i < word.size();) {
    const std::size_t length = std::max<std::size_t>(utf8_length(word, i), 1);
    const std::string_view character = word.substr(i, length);
    const auto has_byte = [&](char byte) { return byte_ids_[static_cast<std::uint8_t>(byte)] >= 0; };
    const auto id = token_id(character);
    const bool bytes = !id && !byte_ids_.empty() && std::all_of(character.begin(), character.end(), has_byte);
    if (id) {
      add(*id, i);
    } else if (bytes) {
      for (const char byte : character) add(byte_ids_[static_cast<std::uint8_t>(byte)], i);
    } else if (unknown_id_ && !(fuse_unknown_ && after_unknown)) {
      add(*unknown_id_, i);
    }
    after_unknown = !id && !bytes;
    i += length;
  }
  if (!symbols.empty()) symbols.back().next = -1;
  return symbols;
}

std::vector<BpeToken> Bpe::encode(std::string_view word) const {
  if (ignore_merges_) {
    if (const auto id = token_id(word)) return {{*id, 0}};
  }
  std::vector<Symbol> symbols = split(word);
  struct Candidate {
    std::int32_t rank, left, id;
    bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : left > other.left; }
  };
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](std::int32_t left) {
    if (left < 0 || symbols[left].next < 0) return;
    if (const Merge* merge = merge_of(symbols[left].id, symbols[symbols[left].next].id))
      queue.push({merge->rank, left, merge->id});
  };
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) consider(static_cast<std::int32_t>(i));
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Symbol& left = symbols[top.left];
    if (left.dead || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    const Merge* merge = merge_of(left.id, right.id);
    if (merge == nullptr || merge->id != top.id) continue;  // one of the two has grown since
    left.id = top.id;
    left.next = right.next;
    right.dead = true;
    if (right.next >= 0) symbols[right.next].previous = top.left;
    consider(left.previous);
    consider(top.left);
  }
  std::vector<BpeToken> tokens;
  for (std::int32_t i = symbols.empty() ? -1 : 0; i >= 0; i = symbols[i].next)
    tokens.push_back({symbols[i].id, symbols[i].begin});
  return tokens;
}

}  // namespace tune
