#pragma once
#include <boost/program_options.hpp>

#include "recipes/schema/recipe.h"
#include "tools/export/export.h"

namespace tune {

/// Adds --run, --model, --adapter and --template: what was trained, of verbs that hand it over.
void add_source_options(boost::program_options::options_description& options);

/// Error{Fault::recipe} unless there is either --run or --model, Error{Fault::data} for a run that isn't finished.
ExportSource source_argument(const boost::program_options::variables_map& values);

/// A recipe that loads what was trained: that of the run, else one that says no more than the source.
Recipe trained_model(const ExportSource& source);

}  // namespace tune
