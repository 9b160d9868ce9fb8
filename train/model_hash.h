#pragma once
#include <string>

#include "checkpoints/base_model.h"

namespace tune {

/// Of the configuration and of about a thousand million weights: all of a model that has no more, else every n-th row
/// of every tensor, evenly spread. Another model, another training of it and another rounding differ in all rows, and
/// are told apart however large they are; a change of a few rows of a larger model may go unnoticed.
std::string hash_of(const BaseModel& base);

}  // namespace tune
