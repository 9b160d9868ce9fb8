#pragma once
#include <boost/program_options.hpp>
#include <string>
#include <vector>

namespace tune {

/// `tune doctor --distributed`: starts ranks, or is one of them; sums and broadcasts of growing size, checked and
/// timed. Rank 0 prints the tables. Exit code 1 when a sum is wrong.
int examine_ranks(const boost::program_options::variables_map& values, const std::vector<std::string>& arguments);

}  // namespace tune
