#pragma once
#include <string_view>

namespace tune {

/// What to say about a key that other tools have, or that is planned here, and that a recipe cannot have now:
/// "distributed" -> "it is planned; …". Empty for any other name.
std::string_view advice_for_key(std::string_view name);

/// Advice for a value that will work one day; the caller adds what works now.
inline constexpr std::string_view kPlanned = "it is planned";

/// The same for a value of a known key: ("train.optim", "adamw_8bit"). List positions in the path are written [].
std::string_view advice_for_value(std::string_view path, std::string_view value);

}  // namespace tune
