#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tune {

/// Single-letter insertions, deletions, replacements and swaps of neighbours that turn a into b (optimal string
/// alignment), letters compared without case, '-' equal to '_'.
std::size_t edit_distance(std::string_view a, std::string_view b);

/// The candidate that was probably meant: at most a third of the letters differ, or one starts with the other.
std::optional<std::string> nearest(std::string_view word, const std::vector<std::string>& candidates);

/// "a", "a or b", "a, b or c".
std::string one_of(const std::vector<std::string>& words);

}  // namespace tune
