#include "tools/verbs/checked_plan.h"

#include <utility>

#include "tools/export/export.h"
#include "tools/verbs/calibration.h"

namespace tune {

Plan checked_plan(const Recipe& recipe, std::int64_t ranks, Purpose purpose, Inputs* inputs) {
  Inputs opened = open_inputs(recipe, purpose);
  check_exports(recipe, opened.base);
  check_calibration(recipe);
  const Loader loader(*opened.train_rows, recipe.data, recipe.train, ranks);
  Plan plan = make_plan(recipe, opened.base.config, &loader, opened.evaluation_rows.get());
  if (inputs != nullptr) *inputs = std::move(opened);
  return plan;
}

}  // namespace tune
