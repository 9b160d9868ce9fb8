#pragma once
#include "recipes/schema/fields.h"
#include "recipes/schema/recipe.h"

namespace tune {

/// Adds every combination of values that cannot be, at the place of the key that is easiest to change. Each value for
/// itself is right already.
void check_combinations(const Recipe& recipe, Reading& reading);

/// Of these, those of `adapter:` and of `export:`. Called by the first.
void check_adapter_combinations(const Recipe& recipe, Reading& reading);
void check_export_combinations(const Recipe& recipe, Reading& reading);

}  // namespace tune
