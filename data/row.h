#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "recipes/schema/place.h"

namespace tune {

/// One tokenised example. ids.size() == trained.size(). trained[i] says that id i is a target: the loss is taken where
/// the model predicts it. trained[0] never counts (nothing comes before it).
struct Row {
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> trained;
  Place place;
};

/// The same, lying in somebody else's memory (the token cache).
struct RowView {
  std::span<const std::int32_t> ids;
  std::span<const std::uint8_t> trained;
};

}  // namespace tune
