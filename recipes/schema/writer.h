#pragma once
#include <string>

#include "recipes/schema/recipe.h"

namespace tune {

/// The resolved recipe as YAML: every default spelled out, ${NAME} expanded. Reads back to the same recipe.
std::string write_recipe(const Recipe& recipe);

}  // namespace tune
