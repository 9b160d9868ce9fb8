#pragma once
#include <span>
#include <vector>

#include "recipes/schema/error.h"
#include "train/step.h"

namespace tune {

/// What there is to say of a step whose loss or gradient norm is not finite: Error{Fault::running} with the step, the
/// first bad tensor and what to try, given what is set. The forward pass is run again to find the tensor.
///   losses  the loss sum of each micro-batch
///   step    from 0; its gradients are still there
Error non_finite_error(Decoder& decoder, const std::vector<PackedBatch>& micro_batches,
                       const std::vector<double>& losses, const StepOutcome& outcome, const TrainOptions& options,
                       std::int64_t step);

/// The same with updates in the backward pass, for the first parameters (of one unit) whose gradients are not finite:
/// those of the units behind it were updated already.
Error non_finite_error(std::span<const Parameter> unit, const TrainOptions& options, Dtype dtype, std::int64_t step);

}  // namespace tune
