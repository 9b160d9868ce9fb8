#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "recipes/schema/place.h"

namespace tune {

/// What `trained` says of an id. Of a pair of answers, which are laid behind their prompt one after the other, also to
/// which of the two it belongs; the prompt's ids belong to neither. A single answer is chosen where it is good,
/// rejected where it is bad; behind it lies another row's, kMismatched, which is looked at but not learned.
inline constexpr std::uint8_t kTrained = 1, kChosen = 2, kRejected = 4, kMismatched = 8;
inline constexpr std::uint8_t kAnswers = kChosen | kRejected | kMismatched;
inline bool is_target(std::uint8_t mark) { return (mark & kTrained) != 0; }
inline bool is_trained(std::uint8_t mark) { return is_target(mark) && (mark & kMismatched) == 0; }

/// One tokenised example. ids.size() == trained.size(). A trained id is a target: the loss is taken where the model
/// predicts it. trained[0] never counts (nothing comes before it).
struct Row {
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> trained;
  Place place;
};

/// The same, lying in somebody else's memory (the token cache).
struct RowView {
  std::span<const std::int32_t> ids;
  std::span<const std::uint8_t> trained;

  /// A prompt with two answers: a pair, or a single answer with another row's behind it.
  bool is_pair() const { return !trained.empty() && (trained.back() & (kRejected | kMismatched)) != 0; }
  bool is_single() const { return !trained.empty() && (trained.back() & kMismatched) != 0; }
};

}  // namespace tune
