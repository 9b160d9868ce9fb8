#include "tools/verbs/arguments.h"

#include <fmt/format.h>

#include <sstream>

#include "recipes/schema/error.h"
#include "recipes/schema/suggest.h"

namespace tune {

namespace po = boost::program_options;

bool parse_arguments(const std::vector<std::string>& arguments, const std::string& verb, const std::string& description,
                     const std::string& example, const po::options_description& options, po::variables_map& values) {
  po::options_description all(options);
  all.add_options()("help", "this text");
  const std::string see = fmt::format("see tune {} --help", verb);
  try {
    po::store(po::command_line_parser(arguments)
                  .options(all)
                  .style(po::command_line_style::unix_style & ~po::command_line_style::allow_guessing)
                  .positional({})
                  .run(),
              values);
    po::notify(values);
  } catch (const po::unknown_option& error) {
    std::vector<std::string> known;
    for (const auto& option : all.options()) known.push_back("--" + option->long_name());
    const auto meant = nearest(error.get_option_name(), known);
    throw Error{Fault::recipe, {}, fmt::format("unknown option {}", error.get_option_name()),
                meant ? fmt::format("did you mean {}? ({})", *meant, see) : see};
  } catch (const po::error& error) {
    throw Error{Fault::recipe, {}, error.what(), see};
  }
  if (values.count("help") == 0) return true;
  std::ostringstream text;
  text << all;
  fmt::print("{}\n\nExample: {}\n\n{}", description, example, text.str());
  return false;
}

}  // namespace tune
