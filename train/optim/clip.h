#pragma once
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "train/model/decoder.h"

namespace tune {

/// Scales all gradients by max_norm / norm where the norm over all of them is larger; max_norm 0 only measures.
/// Returns the norm before. Where other ranks have the rest of the gradients, sum_over_ranks makes the whole's sum of
/// squares of this part's.
double clip_gradients(std::vector<Parameter>& parameters, double max_norm,
                      const std::function<double(double)>& sum_over_ranks = nullptr);

/// The norm over the gradients of these parameters. Sums in a fixed order: same gradients, same bits.
double gradient_norm(std::span<const Parameter> parameters);

/// Name of the first parameter in the order of the backward pass (the last ones of the model come first) whose gradient
/// holds NaN or infinity, "" when there is none.
std::string first_non_finite(std::span<const Parameter> parameters);

}  // namespace tune
