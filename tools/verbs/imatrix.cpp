#include <fmt/format.h>

#include <filesystem>

#include "recipes/schema/error.h"
#include "tools/export/mark.h"
#include "tools/verbs/arguments.h"
#include "tools/verbs/calibration.h"
#include "tools/verbs/source_argument.h"
#include "tools/verbs/verbs.h"

namespace tune {

int imatrix_verb(const std::vector<std::string>& arguments) {
  namespace po = boost::program_options;
  po::options_description options("Options");
  options.add_options()("data", po::value<std::string>()->default_value(""),
                        "calibration rows, laid out as the run's own; default: the run's training data")(
      "output", po::value<std::string>(), ".gguf file to write, for --imatrix of tune export and llama-quantize");
  add_source_options(options);
  po::variables_map values;
  if (!parse_arguments(arguments, "imatrix",
                       "Measures which columns of the weights count on some data (an importance matrix), so that "
                       "quantised GGUFs lose less there.",
                       "tune imatrix --run runs/zephyr-support --data tickets.jsonl --output imatrix.gguf", options,
                       values))
    return 0;
  if (values.count("output") == 0) throw Error{Fault::recipe, {}, "--output is missing", "see tune imatrix --help"};
  const std::filesystem::path output = values["output"].as<std::string>();
  if (output.extension() != ".gguf")
    throw Error{Fault::recipe, {output.string()}, "an importance matrix is a .gguf file", "call it imatrix.gguf"};
  if (std::filesystem::exists(output) && !is_export(output))
    throw Error{
        Fault::recipe, {output.string()}, "was written by no export", "give another output, or remove it first"};
  const ExportSource source = source_argument(values);
  write_importance_matrix(measure_importance(trained_model(source), source, values["data"].as<std::string>()), output);
  fmt::print("{}\n", output.string());
  return 0;
}

}  // namespace tune
