#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "recipes/schema/place.h"
#include "recipes/schema/problems.h"

namespace tune {

struct YamlEntry;

/// One value of a YAML text with its place. Plain data: nothing of the YAML library is seen outside document.cpp.
struct YamlValue {
  enum class Kind { null, scalar, list, map };

  Kind kind = Kind::null;
  std::string text;     // of a scalar
  bool quoted = false;  // of a scalar: in quotes or a block, hence text and no number
  std::vector<YamlValue> items;
  std::vector<YamlEntry> entries;  // in the order of the file, names are unique
  Place place;
};

struct YamlEntry {
  std::string name;
  Place place;
  YamlValue value;
};

/// "a list", "a section", "empty", or the quoted text: for 'x is …'.
std::string describe(const YamlValue& value);

/// Parses one YAML document. What a recipe may not hold goes to `problems`: invalid UTF-8, control characters, anchors,
/// aliases, tags, a second document, keys given twice, more than 1 MiB, 32 levels, 1000 entries of a section or 64 KiB
/// in one value. Nothing comes back where the text cannot be read to its end. An empty text gives a null.
std::optional<YamlValue> parse_document(std::string_view text, const std::string& file, Problems& problems);

}  // namespace tune
