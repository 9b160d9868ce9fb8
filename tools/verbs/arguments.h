#pragma once
#include <boost/program_options.hpp>
#include <string>
#include <vector>

#include "recipes/schema/error.h"
#include "recipes/schema/spelling.h"
#include "recipes/schema/suggest.h"

namespace tune {

/// Parses one verb's arguments. Prints help (description, options, `example`) on stdout and returns false for --help.
/// Error{Fault::recipe} for unknown options or missing values, naming the nearest known option.
bool parse_arguments(const std::vector<std::string>& arguments, const std::string& verb, const std::string& description,
                     const std::string& example, const boost::program_options::options_description& options,
                     boost::program_options::variables_map& values);

/// The value of an option that is spelled as in recipes. Error{Fault::recipe} with the nearest spelling for any other.
template <typename Enum>
Enum enum_argument(const boost::program_options::variables_map& values, const std::string& option) {
  const std::string text = values[option].as<std::string>();
  std::vector<std::string> names;
  for (const auto& [value, name] : Spelling<Enum>::values) {
    if (name == text) return value;
    names.emplace_back(name);
  }
  const auto meant = nearest(text, names);
  throw Error{Fault::recipe,
              {},
              fmt::format("--{} is {}; it may be {}", option, text, one_of(names)),
              meant ? fmt::format("did you mean {}?", *meant) : "see --help"};
}

}  // namespace tune
