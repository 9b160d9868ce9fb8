#pragma once
#include <boost/program_options.hpp>
#include <string>
#include <vector>

#include "recipes/schema/recipe.h"
#include "train/parallel/launch.h"
#include "train/parallel/rank.h"

namespace tune {

void add_launch_options(boost::program_options::options_description& options);

/// How many ranks to start: as asked for, else one a visible GPU, but no more than `most`; one where a launcher has
/// started this process.
/// Error{Fault::recipe} names options that contradict each other or the launcher's variables.
LaunchOptions launch_options(const boost::program_options::variables_map& values, Device device, std::int64_t most,
                             const Rank& rank);

/// What the ranks are started with: who they are stands in their environment.
std::vector<std::string> started_with(const std::string& verb, const std::vector<std::string>& arguments);

}  // namespace tune
