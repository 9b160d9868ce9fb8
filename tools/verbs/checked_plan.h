#pragma once
#include "recipes/schema/recipe.h"
#include "train/inputs.h"
#include "train/plan/plan.h"

namespace tune {

/// Everything that a run checks before its first step, and what is known then. inputs: gets what was opened, unless it
/// is null. Errors as of open_inputs, check_exports and check_calibration.
Plan checked_plan(const Recipe& recipe, std::int64_t ranks, Purpose purpose, Inputs* inputs = nullptr);

}  // namespace tune
