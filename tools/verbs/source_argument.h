#pragma once
#include <boost/program_options.hpp>

#include "recipes/schema/recipe.h"
#include "tools/export/export.h"

namespace tune {

/// Adds --run, --stage, --model, --adapter and --template: what was trained, of verbs that hand it over.
void add_source_options(boost::program_options::options_description& options);

/// Error{Fault::recipe} unless there is either --run or --model, Error{Fault::data} for a run that isn't finished.
ExportSource source_argument(const boost::program_options::variables_map& values);

/// --merge-base, for verbs that have it: into options.merge_base. Of a model and adapter without a run, dequantized
/// says that the adapter was trained on the model in NF4. Error{Fault::recipe} where nothing is merged, or of another
/// run.
inline constexpr const char* kMergeBaseHelp =
    "what an adapter of qlora is merged into: dequantized (the weights that it was trained with; the default) or "
    "original";
void choose_merge_base(const boost::program_options::variables_map& values, ExportOptions& options,
                       ExportSource& source);

/// A recipe that loads what was trained: that of the run, else one that says no more than the source.
Recipe trained_model(const ExportSource& source);

}  // namespace tune
