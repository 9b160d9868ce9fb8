#pragma once
#include <filesystem>

#include "recipes/schema/recipe.h"
#include "tools/export/export.h"
#include "tools/export/importance_matrix.h"

namespace tune {

/// Runs calibration rows through the trained model (its base model with the adapter that it starts from;
/// source.weights in place of the base's): rows of `data`, read as the recipe's first data set is (as conversations
/// where the recipe has none, as text with .txt), or, with an empty `data`, of the recipe's data sets. Of much data,
/// rows evenly spread over it. Error{Fault::data} for rows that can't be read, or where there is none.
ImportanceMatrix measure_importance(const Recipe& trained, const ExportSource& source,
                                    const std::filesystem::path& data);

/// Before a run: errors of importance_matrix() for each that an export of the recipe names, as far as they can be
/// known.
void check_calibration(const Recipe& recipe);

/// What --imatrix and export[].imatrix name: a .gguf that holds a matrix, or data to measure it on.
ImportanceMatrix importance_matrix(const Recipe& trained, const ExportSource& source,
                                   const std::filesystem::path& path);

}  // namespace tune
