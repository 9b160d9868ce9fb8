#include <fmt/format.h>

#include <cmath>
#include <filesystem>

#include "data/templates/own_template.h"
#include "data/tokenizer/tokenizer.h"
#include "recipes/schema/error.h"
#include "recipes/schema/reader.h"
#include "recipes/schema/spelling.h"
#include "recipes/schema/tell.h"
#include "tools/verbs/arguments.h"
#include "tools/verbs/recipe_argument.h"
#include "tools/verbs/verbs.h"
#include "train/inputs.h"

namespace tune {
namespace {

Dtype dtype_called(const std::string& name) {
  for (const auto& [dtype, spelled] : Spelling<Dtype>::values)
    if (spelled == name) return dtype;
  throw Error{Fault::recipe, {}, fmt::format("--dtype is {}; it may be bf16, fp16 or fp32", name), ""};
}

// What the run says that wrote the adapter or the model (it lies in output_dir/final, checkpoint-N or export/adapter),
// else the model's own format, else none at all.
std::string training_template(const std::filesystem::path& model, const std::string& adapter) {
  std::filesystem::path folder = std::filesystem::absolute(adapter == "none" ? model : std::filesystem::path(adapter));
  for (int level = 0; level < 3; ++level, folder = folder.parent_path())
    if (std::filesystem::exists(folder / "recipe.yaml")) return read_recipe(folder / "recipe.yaml").data.chat_template;
  const std::string jinja = open_tokenizer(model)->chat_template;
  const std::string_view own = recognise_template(jinja), alike = own.empty() ? resembling_template(jinja) : own;
  if (!alike.empty()) return std::string(alike);
  tell("note: no known chat template beside the model; the prompt is given as it is (--template none)\n");
  return "none";
}

}  // namespace

int generate_verb(const std::vector<std::string>& arguments) {
  namespace po = boost::program_options;
  po::options_description options("Options");
  options.add_options()("model", po::value<std::string>(), "Hugging Face folder or .gguf file")(
      "adapter", po::value<std::string>()->default_value("none"),
      "PEFT folder, or the adapter_model.safetensors in it, or none")(
      "prompt", po::value<std::string>(), "the question")("template", po::value<std::string>(),
                                                          "chat template; default: the one it was trained with")(
      "max-tokens", po::value<std::int64_t>()->default_value(128), "length of the answer at most")(
      "temperature", po::value<double>()->default_value(0.0), "0 = always the most likely token")(
      "seed", po::value<std::int64_t>()->default_value(0), "of the sampling")(
      "dtype", po::value<std::string>()->default_value("bf16"), "bf16, fp16 or fp32")("compare",
                                                                                      "the base model's answer, too");
  po::variables_map values;
  if (!parse_arguments(
          arguments, "generate", "Answers one prompt in the training template.",
          "tune generate --model models/smollm2.gguf --adapter runs/quickstart/final --prompt 'What is a bygglov?'",
          options, values))
    return 0;
  for (const char* required : {"model", "prompt"})
    if (values.count(required) == 0)
      throw Error{Fault::recipe, {}, fmt::format("--{} is missing", required), "see tune generate --help"};
  const Dtype dtype = dtype_called(values["dtype"].as<std::string>());

  const auto max_tokens = values["max-tokens"].as<std::int64_t>();
  if (max_tokens < 1)
    throw Error{Fault::recipe, {}, fmt::format("--max-tokens is {}; it must be 1 or more", max_tokens)};
  const auto temperature = values["temperature"].as<double>();
  if (!std::isfinite(temperature) || temperature < 0)
    throw Error{Fault::recipe, {}, fmt::format("--temperature is {}; it must be 0 or more", temperature)};

  Recipe recipe;
  recipe.model.base_model = values["model"].as<std::string>();
  recipe.data.chat_template = values.count("template") != 0
                                  ? values["template"].as<std::string>()
                                  : training_template(recipe.model.base_model, values["adapter"].as<std::string>());
  recipe.model.dtype = dtype;
  choose_adapter(recipe, values["adapter"].as<std::string>());
  const Inputs inputs = open_inputs(recipe, Purpose::evaluation);
  const auto decoder = load_decoder(inputs.base, decoder_options(recipe, inputs.base.config, false));
  const auto ask = [&] {
    return answer(
        *decoder, inputs, values["prompt"].as<std::string>(),
        {.max_tokens = max_tokens, .temperature = temperature, .seed = values["seed"].as<std::int64_t>(), .agree = {}});
  };
  const std::string tuned = ask();
  if (values.count("compare") == 0) {
    fmt::print("{}\n", tuned);
    return 0;
  }
  decoder->set_adapter_enabled(false);
  fmt::print("base:  {}\ntuned: {}\n", ask(), tuned);
  return 0;
}

}  // namespace tune
