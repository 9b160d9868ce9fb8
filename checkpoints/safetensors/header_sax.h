#pragma once
#include <string_view>

#include "checkpoints/safetensors/header.h"

namespace tune {

/// The header's JSON as it stands, before offsets and shapes are checked against the file: entries in the order of the
/// text, begin and end as written there. Throws std::runtime_error with what is wrong, in words for a person.
SafetensorsHeader parse_header_json(std::string_view text);

}  // namespace tune
