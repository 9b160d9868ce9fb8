#include "tools/export/upscale.h"

#include <fmt/format.h>

#include "recipes/schema/error.h"
#include "recipes/schema/tell.h"
#include "tools/verbs/arguments.h"
#include "tools/verbs/verbs.h"
#include "train/stop.h"

namespace tune {

int upscale_verb(const std::vector<std::string>& arguments) {
  namespace po = boost::program_options;
  po::options_description options("Options");
  const auto text = [] { return po::value<std::string>(); };
  options.add_options()("model", text(), "base model, a Hugging Face folder")(
      "layers", text(),
      "ranges of its layers, each from a layer up to but without another, in their new order; 0-24,8-32 for models of "
      "32 layers")("output", text(), "folder to write; must not be there yet");
  po::variables_map values;
  if (!parse_arguments(arguments, "upscale",
                       "Makes a deeper model of a base model by repeating layers (SOLAR's depth up-scaling), to be "
                       "trained on: stage pretrain.",
                       "tune upscale --model mistral-7b --layers 0-24,8-32 --output mistral-10.7b", options, values))
    return 0;
  for (const char* option : {"model", "output"})
    if (values.count(option) == 0)
      throw Error{Fault::recipe, {}, fmt::format("--{} is missing", option), "see tune upscale --help"};
  std::optional<std::vector<LayerRange>> ranges;
  if (values.count("layers") != 0) ranges = parse_layer_ranges(values["layers"].as<std::string>());
  install_stop_signals();
  const std::string output = values["output"].as<std::string>();
  const Upscaled made = upscale(values["model"].as<std::string>(), ranges, output);
  tell("{} layers, {} parameters, {:.1f} GB\n", made.num_hidden_layers, made.parameters,
       static_cast<double>(made.bytes) / 1e9);
  fmt::print("{}\n", output);
  return 0;
}

}  // namespace tune
