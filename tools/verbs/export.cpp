#include <fmt/format.h>

#include "recipes/schema/error.h"
#include "recipes/schema/quants.h"
#include "recipes/schema/spelling.h"
#include "recipes/schema/suggest.h"
#include "recipes/schema/units.h"
#include "tools/export/export.h"
#include "tools/export/import_gguf_lora.h"
#include "tools/export/known_base.h"
#include "tools/verbs/arguments.h"
#include "tools/verbs/calibration.h"
#include "tools/verbs/source_argument.h"
#include "tools/verbs/verbs.h"
#include "tools/verbs/verification.h"

namespace tune {

namespace {

namespace po = boost::program_options;

std::string required(const po::variables_map& values, const std::string& option) {
  if (values.count(option) == 0)
    throw Error{Fault::recipe, {}, fmt::format("--{} is missing", option), "see tune export --help"};
  return values[option].as<std::string>();
}

}  // namespace

int export_verb(const std::vector<std::string>& arguments) {
  po::options_description options("Options");
  const auto text = [] { return po::value<std::string>(); };
  options.add_options()("format", text(), "adapter, hf, gguf, gguf-lora or onnx")(
      "quant", text(),
      "of hf, gguf and onnx: f32, f16, bf16 (the default); of gguf also q8_0, q6_k, "
      "q5_k_m, q5_0, q4_k_m and q4_0; of onnx int8 and int4")(
      "flavour", text(), "of onnx: standard (the default; any runtime) or genai (onnxruntime-genai)")(
      "separate-adapter", "of onnx: the adapter beside the base's weights, loaded at run time, instead of merged")(
      "max-shard-size", text(), "of hf (5GB unless given) and gguf (one file unless given): a file's tensors at most")(
      "imatrix", text(),
      "of gguf from q6_k to q4_0: calibration rows laid out as the run's, or a .gguf of tune imatrix; the columns that "
      "count there lose less")(
      "verify", "read it back and compare its answers with the trained model's; exit code 5 if they differ too much")(
      "check", text(), "of adapter: vllm; refused with exit code 2 and the reasons if vLLM would not load it")(
      "merge-base", text(), kMergeBaseHelp)(
      "output", text(), "folder (adapter, hf, onnx) or file (gguf, gguf-lora) to write; an earlier export is replaced");
  add_source_options(options);
  options.add_options()("other-base", "put the adapter on another model than the one it was trained on");
  po::variables_map values;
  if (!parse_arguments(arguments, "export", "Turns a finished run, or a model with an adapter, into what others load.",
                       "tune export --format gguf --quant q8_0 --run runs/zephyr-support --output zephyr-support.gguf",
                       options, values))
    return 0;
  required(values, "format");
  ExportOptions wanted{.format = enum_argument<ExportFormat>(values, "format")};
  if (values.count("quant") != 0) wanted.quant = enum_argument<Quant>(values, "quant");
  if (wanted.quant && is_adapter(wanted.format))
    throw Error{
        Fault::recipe, {}, "--quant goes with hf, gguf and onnx; an adapter keeps its own numbers", "leave it out"};
  if (values.count("flavour") != 0) wanted.flavour = enum_argument<OnnxFlavour>(values, "flavour");
  if (wanted.flavour && wanted.format != ExportFormat::onnx)
    throw Error{Fault::recipe, {}, "--flavour goes with onnx, which alone has flavours", "leave it out"};
  wanted.separate_adapter = values.count("separate-adapter") != 0;
  if (wanted.separate_adapter && wanted.format != ExportFormat::onnx)
    throw Error{Fault::recipe, {}, "--separate-adapter goes with onnx", "leave it out"};
  if (values.count("max-shard-size") != 0) {
    wanted.max_shard_size = values["max-shard-size"].as<std::string>();
    if (wanted.format != ExportFormat::hf && wanted.format != ExportFormat::gguf)
      throw Error{Fault::recipe, {}, "--max-shard-size goes with hf and gguf", "leave it out"};
    parse_shard_size(wanted.max_shard_size, "--max-shard-size");
  }
  if (values.count("check") != 0) wanted.check = enum_argument<ServingCheck>(values, "check");
  if (wanted.check && wanted.format != ExportFormat::adapter)
    throw Error{Fault::recipe, {}, "--check goes with adapter", "leave it out"};
  wanted.verify = values.count("verify") != 0;
  if (values.count("imatrix") != 0) {
    wanted.imatrix = values["imatrix"].as<std::string>();
    if (!heeds_importance(wanted.format, wanted.quant.value_or(kDefaultQuant)))
      throw Error{Fault::recipe,
                  {},
                  "an importance matrix has no effect on this format",
                  "it goes with --format gguf and --quant q6_k, q5_k_m, q5_0, q4_k_m or q4_0; leave it out"};
  }
  const std::string output = required(values, "output");
  ExportSource source = source_argument(values);
  choose_merge_base(values, wanted, source);
  if (wanted.verify && source.adapter && is_gguf_adapter(*source.adapter))
    throw Error{Fault::recipe, {}, "--verify can't load a GGUF adapter to compare with", "leave it out"};
  const bool other_base = values.count("other-base") != 0;
  if (other_base && !source.adapter)
    throw Error{Fault::recipe, {}, "--other-base goes with an adapter, and there is none", "leave it out"};
  if (source.adapter && !is_gguf_adapter(*source.adapter) && !other_base)
    check_base(*source.adapter, open_base_model(source.model));
  ImportanceMatrix importance;
  if (!wanted.imatrix.empty()) importance = importance_matrix(trained_model(source), source, wanted.imatrix);
  const std::filesystem::path written = run_export(wanted, source, output, importance);
  if (wanted.verify) keep_if_verified(written, [&] { verify_export(wanted, source, written); });
  fmt::print("{}\n", written.string());
  return 0;
}

}  // namespace tune
