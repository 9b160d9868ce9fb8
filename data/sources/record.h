#pragma once
#include <map>
#include <string>
#include <vector>

#include "data/templates/template.h"
#include "recipes/schema/place.h"

namespace tune {

/// One row of a data file, read but not yet tokenised. `messages` for chat, alpaca and prompt_completion (all of them
/// become a conversation), `text` for text. A long text is several records, one behind the other.
struct Record {
  std::vector<Message> messages;
  std::string text;
  TextPart part = TextPart::whole;
  Place place;
};

}  // namespace tune
