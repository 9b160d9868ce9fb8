#pragma once
#include <cstdint>
#include <string>

#include "checkpoints/huggingface/model_config.h"
#include "checkpoints/weights.h"

namespace tune {

/// The row of a matrix (or the vector) that a written model is furthest off in.
struct RowError {
  std::string tensor;
  std::int64_t row = 0;
  double error = 0;  // length of the difference over the length of the trained row
};

/// Compares all weights of two models of one configuration, a few rows at a time on all cores. Rows much shorter than
/// is usual in their matrix count as if they had a hundredth of that. Error{Fault::verification} at `where` for a
/// tensor that `written` hasn't got, or in another shape.
RowError largest_row_error(const ModelConfig& config, const WeightSource& trained, const WeightSource& written,
                           const std::string& where);

}  // namespace tune
