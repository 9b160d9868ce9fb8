#pragma once
#include <filesystem>
#include <functional>

#include "train/parallel/rank.h"
#include "train/parallel/world.h"

namespace tune {

/// Runs `work` as one of the ranks: with its GPU and its share of the cores; what it throws is told by the first of all
/// ranks that fails, and ends the process with its exit code. `work` meets the others itself. Of one rank alone
/// exceptions go their usual way.
int as_rank(const Rank& rank, const std::filesystem::path& output_dir, const std::function<int(World&)>& work);

}  // namespace tune
