#pragma once
#include <string_view>
#include <vector>

#include "data/templates/template.h"

namespace tune {

/// Whether a system message stands in front. Error{Fault::data} without a place unless user and assistant take turns
/// behind it, the user first.
bool check_alternation(const std::vector<Message>& messages, std::string_view format);

}  // namespace tune
