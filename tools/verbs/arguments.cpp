#include "tools/verbs/arguments.h"

#include <fmt/format.h>

#include <sstream>

#include "recipes/schema/error.h"
#include "recipes/schema/suggest.h"

namespace tune {
namespace {

namespace po = boost::program_options;

po::parsed_options parsed(const std::vector<std::string>& arguments, const po::options_description& options) {
  return po::command_line_parser(arguments)
      .options(options)
      .style(po::command_line_style::unix_style & ~po::command_line_style::allow_guessing)
      .run();
}

[[noreturn]] void refuse_option(const std::string& name, const po::options_description& options,
                                const std::string& see) {
  std::vector<std::string> known;
  for (const auto& option : options.options()) known.push_back("--" + option->long_name());
  const auto meant = nearest(name, known);
  throw Error{Fault::recipe,
              {},
              fmt::format("unknown option {}", name),
              meant ? fmt::format("did you mean {}? ({})", *meant, see) : see};
}

}  // namespace

bool parse_arguments(const std::vector<std::string>& arguments, const std::string& verb, const std::string& description,
                     const std::string& example, const po::options_description& options, po::variables_map& values) {
  po::options_description all(options);
  all.add_options()("help", "this text");
  const std::string see = fmt::format("see tune {} --help", verb);
  try {
    const po::parsed_options found = parsed(arguments, all);
    for (const auto& option : found.options)
      if (option.string_key.empty() && !option.value.empty())
        throw Error{Fault::recipe, {}, fmt::format("\"{}\" belongs to no option", option.value.front()), see};
    po::store(found, values);
    po::notify(values);
  } catch (const po::unknown_option& error) {
    refuse_option(error.get_option_name(), all, see);
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
