#pragma once
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/templates/template.h"
#include "recipes/schema/place.h"

namespace tune {

/// Bytes of a text.
struct Stretch {
  std::size_t begin = 0, end = 0;
};

/// One row of a data file, read but not yet tokenised. `messages` for chat, alpaca and prompt_completion (all of them
/// become a conversation), `text` for text and fim; of a preference, `messages` end with the chosen answer and
/// `rejected` is the same conversation with the other one; of an unpaired_preference, `label` says whether the answer
/// that ends `messages` is good. A long text is several records, one behind the other, but for fim.
struct Record {
  std::vector<Message> messages, rejected;
  std::string text;
  TextPart part = TextPart::whole;
  Place place;
  std::optional<Stretch> middle;  // fim: what is to be filled in, where the row says it
  std::optional<bool> label;
};

}  // namespace tune
