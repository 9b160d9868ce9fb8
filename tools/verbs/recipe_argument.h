#pragma once
#include <boost/program_options.hpp>

#include "recipes/schema/reader.h"

namespace tune {

/// Adds --recipe and --set to a verb's options.
void add_recipe_options(boost::program_options::options_description& options);

/// Adds --stage, for verbs that look at one stage.
void add_stage_option(boost::program_options::options_description& options);

/// Looks the recipe up (the path as given, ./recipes, the installed ones; .yaml may be left off), applies --set, prints
/// notes about aliases on stderr. Error{Fault::recipe} when --recipe is missing or anything in the file is wrong.
Stages stages_argument(const boost::program_options::variables_map& values);

/// Which of them --stage names, from 0; without it the last one. Error{Fault::recipe} for one that isn't there, and for
/// --stage with a recipe that has no stages.
std::size_t chosen_stage(const Stages& all, const boost::program_options::variables_map& values);

/// Makes the recipe load `adapter`, a PEFT folder, with that folder's own rank, alpha and modules. "none": the base
/// model alone. "": what output_dir/final holds, an adapter or a whole model; the base model alone where there is
/// nothing yet.
void choose_adapter(Recipe& recipe, const std::string& adapter);

}  // namespace tune
