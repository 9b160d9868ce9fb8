#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "train/parallel/world.h"

namespace tune {

/// Divides a host's cores among its ranks and binds this one to its part, so that its memory lies beside them and no
/// core computes for two. A rank with a GPU gets cores of the GPU's own NUMA node. What a launcher has bound already
/// stays divided as it is; ranks that have the same cores share them, and where there are fewer cores than ranks none
/// is bound. As many threads compute as the part has cores; a smaller number that the user set (OMP_NUM_THREADS) stays.
/// Every rank calls it, before the first product. device: "cpu" or "cuda:N".
void bind_cores(World& world, const std::string& device);

/// {0, 1, 2, 3, 8} of "0-3,8", as Linux writes lists of cores; nothing of what is no such list.
std::vector<int> parse_cores(const std::string& list);

/// The part of the index-th of `count` ranks that share `cores`: equal but for one, consecutive. All of them where
/// there are fewer than ranks.
std::vector<int> part_of_cores(const std::vector<int>& cores, std::int64_t index, std::int64_t count);

}  // namespace tune
