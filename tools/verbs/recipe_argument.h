#pragma once
#include <boost/program_options.hpp>

#include "recipes/schema/recipe.h"

namespace tune {

/// Adds --recipe and --set to a verb's options.
void add_recipe_options(boost::program_options::options_description& options);

/// Looks the recipe up (the path as given, ./recipes, the installed ones; .yaml may be left off), applies --set, prints
/// notes about aliases on stderr. Error{Fault::recipe} when --recipe is missing or anything in the file is wrong.
Recipe recipe_argument(const boost::program_options::variables_map& values);

/// Makes the recipe load `adapter`, a PEFT folder, with that folder's own rank, alpha and modules. "none": the base
/// model alone. "": what output_dir/final holds, an adapter or a whole model; the base model alone where there is
/// nothing yet.
void choose_adapter(Recipe& recipe, const std::string& adapter);

}  // namespace tune
