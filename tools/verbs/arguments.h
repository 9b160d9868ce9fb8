#pragma once
#include <boost/program_options.hpp>
#include <string>
#include <vector>

namespace tune {

/// Parses one verb's arguments. Prints help (description, options, `example`) on stdout and returns false for --help.
/// Error{Fault::recipe} for unknown options or missing values, naming the nearest known option.
bool parse_arguments(const std::vector<std::string>& arguments, const std::string& verb, const std::string& description,
                     const std::string& example, const boost::program_options::options_description& options,
                     boost::program_options::variables_map& values);

}  // namespace tune
