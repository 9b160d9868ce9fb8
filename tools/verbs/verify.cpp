#include <fmt/format.h>

#include <algorithm>

#include "checkpoints/base_model.h"
#include "checkpoints/gguf/gguf.h"
#include "checkpoints/onnx/model.h"
#include "checkpoints/peft/adapter_folder.h"
#include "recipes/schema/error.h"
#include "recipes/schema/quants.h"
#include "recipes/schema/spelling.h"
#include "tools/export/gguf_types.h"
#include "tools/verbs/arguments.h"
#include "tools/verbs/source_argument.h"
#include "tools/verbs/verbs.h"
#include "tools/verbs/verification.h"

namespace tune {
namespace {

namespace fs = std::filesystem;

/// The quantisation that a GGUF says it has; the least precise one where it doesn't, or where that is none of ours.
Quant quant_of(const GgufFile& file) {
  const std::int64_t type = file.integer("general.file_type", -1);
  const auto quants = quants_of(ExportFormat::gguf);
  const auto found =
      std::find_if(quants.begin(), quants.end(), [&](Quant quant) { return gguf_file_type(quant) == type; });
  return found == quants.end() ? quants.back() : *found;
}

/// The same of an ONNX model.
Quant onnx_quant_of(const fs::path& folder) {
  const std::string said = onnx_quant(folder);
  const auto quants = quants_of(ExportFormat::onnx);
  const auto found = std::find_if(quants.begin(), quants.end(), [&](Quant quant) { return spelling(quant) == said; });
  return found == quants.end() ? quants.back() : *found;
}

/// What lies there, as the options that an export would have had.
ExportOptions options_of(const fs::path& path) {
  if (!fs::exists(path)) throw Error{Fault::data, {path.string()}, "there is no such folder or file", "check the path"};
  if (fs::is_directory(path) && fs::exists(path / kAdapterConfigFile)) return {.format = ExportFormat::adapter};
  if (fs::is_directory(path) && holds_only_onnx(path))
    return {.format = ExportFormat::onnx, .quant = onnx_quant_of(path)};
  if (fs::is_directory(path) && fs::exists(path / "config.json")) return {.format = ExportFormat::hf};
  if (fs::is_regular_file(path) && path.extension() == ".onnx")
    throw Error{Fault::data, {path.string()}, "is one file of a model", "give the folder that it is in"};
  if (fs::is_regular_file(path)) {
    const GgufFile file(path);
    if (file.text("general.type", "model") == "adapter") return {.format = ExportFormat::gguf_lora};
    return {.format = ExportFormat::gguf, .quant = quant_of(file)};
  }
  throw Error{Fault::data,
              {path.string()},
              "is neither a folder of Hugging Face, PEFT or ONNX nor a GGUF",
              "these can be read back and compared"};
}

}  // namespace

int verify_verb(const std::vector<std::string>& arguments) {
  namespace po = boost::program_options;
  po::options_description options("Options");
  options.add_options()("file", po::value<std::string>(), "what was exported: folder or .gguf file");
  options.add_options()("merge-base", po::value<std::string>(), kMergeBaseHelp);
  add_source_options(options);
  po::variables_map values;
  if (!parse_arguments(arguments, "verify",
                       "Compares the answers of an exported model with those of what was trained. Exit code 5 if they "
                       "differ by more than the file's numbers can cause.",
                       "tune verify --file zephyr-support.gguf --run runs/zephyr-support", options, values))
    return 0;
  if (values.count("file") == 0) throw Error{Fault::recipe, {}, "--file is missing", "see tune verify --help"};
  const fs::path file = values["file"].as<std::string>();
  ExportOptions wanted = options_of(file);
  ExportSource source = source_argument(values);
  choose_merge_base(values, wanted, source);
  verify_export(wanted, source, file);
  return 0;
}

}  // namespace tune
