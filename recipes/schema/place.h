#pragma once
#include <cstdint>
#include <string>

namespace tune {

/// Where a person has to look: a file, and as far as it is known the line and the column (both from 1; 0 = not known).
struct Place {
  std::string file;
  std::int64_t line = 0;
  std::int64_t column = 0;
};

/// "support.jsonl:17:3", "support.jsonl:17", "support.jsonl", or "" for an empty place.
std::string to_string(const Place& place);

}  // namespace tune
