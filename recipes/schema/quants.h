#pragma once
#include <span>
#include <string>

#include "recipes/schema/recipe.h"

namespace tune {

/// What a format can hold, in the order of its documentation; nothing for adapters, which keep their own numbers.
std::span<const Quant> quants_of(ExportFormat format);

/// "quant is int4 with format gguf" with the remedy, as two texts; both empty when the format holds it.
struct QuantFault {
  std::string what, remedy;
};
QuantFault fault_of(ExportFormat format, Quant quant);

/// True where some columns can be stored better than others: the formats that an importance matrix goes with.
bool heeds_importance(ExportFormat format, Quant quant);

}  // namespace tune
