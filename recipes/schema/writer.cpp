#include "recipes/schema/writer.h"

#include "recipes/schema/fields.h"

namespace tune {

std::string write_recipe(const Recipe& recipe) {
  return "# The recipe as it was run, every default spelled out.\n" + write_fields(recipe);
}

}  // namespace tune
