#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace tune {

/// Work of one row of `tokens` tokens, in tokens of its linear layers: attention grows with the square.
double cost_of_row(std::int64_t tokens);

/// Deals what costs that much to `ranks` ranks: none gets more than one piece more than another. In rounds of
/// one piece each, the dearest first; in a round, whoever has the least work so far gets the dearest piece. A pure
/// function of its arguments, so every rank knows everybody's share. Returns indices into costs, ascending, by rank.
std::vector<std::vector<std::int64_t>> deal(std::span<const double> costs, std::int64_t ranks);

}  // namespace tune
