#pragma once
#include "recipes/schema/fields.h"
#include "recipes/schema/recipe.h"

namespace tune {

/// Makes all three batch sizes known: global = per device x accumulation. Two given: the third follows. Only one of
/// accumulation and per device given: per device 8, accumulation 1. Only global given: per device is its largest
/// divisor up to 8. None given: 8, 8, 1. Sizes that contradict each other go to reading.problems.
void derive_batch_sizes(TrainOptions& train, Reading& reading);

}  // namespace tune
