#include "train/plan/plan.h"

#include <numeric>

namespace tune {

std::int64_t Plan::peak_bytes() const {
  return std::accumulate(memory.begin(), memory.end(), std::int64_t{0},
                         [](std::int64_t sum, const MemoryItem& item) { return sum + item.bytes; });
}

}  // namespace tune
