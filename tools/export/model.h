#pragma once
#include <string>

#include "checkpoints/base_model.h"

namespace tune {

/// A finished model: what every format that holds a whole model is made of.
struct ModelForExport {
  const BaseModel& base;        // its configuration and its tokenizer
  const WeightSource& weights;  // what is written; names and shapes as the configuration says
  std::string chat_template;    // Jinja text that goes into the files; empty = the model's own
};

}  // namespace tune
