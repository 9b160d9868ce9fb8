#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/row.h"
#include "data/sources/record.h"
#include "data/templates/template.h"
#include "data/tokenizer/tokenizer.h"
#include "recipes/schema/error.h"
#include "recipes/schema/recipe.h"

namespace tune {

/// What turns a record into rows; the same for all of them.
struct Encoder {
  const Tokenizer& tokenizer;
  const ChatTemplate& chat_template;
  TrainOn train_on;
  Overflow overflow;
  std::int64_t max_length;
};

enum class Fit { whole, truncated, split, too_long };

/// What became of a record.
struct Encoded {
  std::vector<Row> pieces;  // only those with a token to learn from
  Fit fit = Fit::whole;
  std::uint64_t content_hash = 0;  // of the ids before they were cut; equal rows have equal ones
  std::optional<Error> refused;    // then the rest means nothing
};

Encoded encode(const Record& record, const Encoder& encoder);

}  // namespace tune
