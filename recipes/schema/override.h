#pragma once
#include "recipes/schema/document.h"
#include "recipes/schema/reader.h"

namespace tune {

/// Puts the value into the document, in the place of what stands under that path (under whichever of its names), or as
/// a new entry; [n] of a list of n elements adds one. A path that cannot be goes to `problems` with the place "--set".
void apply_override(YamlValue& document, const Override& change, Problems& problems);

}  // namespace tune
