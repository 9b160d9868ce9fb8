#pragma once
#include <memory>
#include <string_view>

#include "data/sources/fields.h"

namespace tune {

/// Parses rows that are JSON objects.
class JsonRowParser {
 public:
  JsonRowParser();
  ~JsonRowParser();

  /// begin: where `text` begins. Error{Fault::data} with line and column for broken JSON, invalid UTF-8, nesting deeper
  /// than 64 and anything that isn't an object.
  Fields parse(std::string_view text, const Place& begin);

 private:
  struct Parser;  // keeps simdjson out of this header
  std::unique_ptr<Parser> parser_;
};

}  // namespace tune
