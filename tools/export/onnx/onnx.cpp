#include "tools/export/onnx/onnx.h"

#include <fmt/format.h>

#include <optional>

#include "checkpoints/files/atomic_file.h"
#include "checkpoints/onnx/adapter.h"
#include "checkpoints/onnx/model.h"
#include "checkpoints/onnx/reader.h"
#include "data/templates/jinja_text.h"
#include "data/tokenizer/tokenizer.h"
#include "recipes/schema/error.h"
#include "recipes/schema/spelling.h"
#include "tools/export/gguf_tokenizer.h"
#include "tools/export/hf.h"
#include "tools/export/onnx/genai_config.h"
#include "tools/export/onnx/graphs.h"
#include "tools/export/onnx/separate_adapter.h"
#include "tools/export/tokenizer_json.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

constexpr const char* kTokenizerFile = "tokenizer.json";

/// The oldest versions that have what is needed, so that old runtimes read it: INT4 came with opset 21.
struct Versions {
  std::int64_t ir, opset;
};
Versions versions_for(OnnxFlavour flavour, Quant quant) {
  const bool newer = flavour == OnnxFlavour::genai || quant == Quant::int4;
  return newer ? Versions{10, 21} : Versions{8, 17};
}

/// As optimum and as onnxruntime-genai's model builder call it.
const char* data_file(OnnxFlavour flavour) {
  return flavour == OnnxFlavour::genai ? "model.onnx.data" : "model.onnx_data";
}

void name_model(OnnxFlavour flavour, Quant quant, const Versions& versions, OnnxModel& model) {
  model.ir_version = versions.ir;
  model.producer_name = "tune";
  model.producer_version = TUNE_VERSION;
  model.graph_name = "decoder";
  model.opsets.emplace_back("", versions.opset);
  if (flavour == OnnxFlavour::genai) model.opsets.emplace_back(kMicrosoft, 1);
  model.metadata = {{"tune.flavour", std::string(spelling(flavour))}, {kOnnxQuantKey, std::string(spelling(quant))}};
}

/// onnxruntime-genai reads tokenizer.json and nothing else; a GGUF's is written with the other tokenizer files.
std::optional<std::string> missing_tokenizer_json(const BaseModel& base) {
  if (base.is_gguf || fs::exists(base.path / kTokenizerFile)) return std::nullopt;
  return tokenizer_json(tokenizer_for_gguf(base), base.path.string());
}

/// onnxruntime-genai doesn't trim blocks: the line ends of Zephyr's text would be in every prompt.
ModelForExport with_spelled_out_template(const ModelForExport& model) {
  const std::string own = model.chat_template.empty() ? open_tokenizer(model.base.path)->chat_template : "";
  return {model.base, model.weights, spelled_out_jinja(model.chat_template.empty() ? own : model.chat_template)};
}

}  // namespace

void check_onnx_flavour(const BaseModel& base, OnnxFlavour flavour) {
  if (flavour == OnnxFlavour::standard) return;
  const ModelConfig& config = base.config;
  const auto refuse = [](const std::string& what) {
    throw Error{Fault::recipe, {}, what, "write flavour standard, which onnxruntime runs"};
  };
  if (config.num_local_experts > 0)
    refuse("flavour genai can't hold a mixture of experts: onnxruntime-genai knows no model type mixtral");
  if (config.head_dim % 16 != 0)
    refuse(fmt::format("head_dim is {}; flavour genai needs a multiple of 16: GroupQueryAttention rotates no other",
                       config.head_dim));
  missing_tokenizer_json(base);
}

void export_onnx(const ModelForExport& model, const OnnxExport& wanted, const fs::path& folder) {
  const auto [flavour, quant, adapter] = wanted;
  const ModelConfig& config = model.base.config;
  const bool genai = flavour == OnnxFlavour::genai;
  const Versions versions = versions_for(flavour, quant);
  OnnxGraphBuilder graph(versions.opset);
  OnnxWeights weights(model, quant, genai, graph);
  std::optional<SeparateAdapter> separate;
  if (adapter != nullptr) weights.set_adapter(&separate.emplace(*adapter, weights.computes_in(), graph));
  (genai ? build_genai_graph : build_standard_graph)(config, weights, graph);
  write_companions(genai ? with_spelled_out_template(model) : model, weights.computes_in(), folder);
  if (genai) {
    if (const auto text = missing_tokenizer_json(model.base)) write_atomically(folder / kTokenizerFile, *text);
    write_atomically(folder / "genai_config.json", genai_config(config, kOnnxModelFile, folder));
  }
  name_model(flavour, quant, versions, graph.model());
  write_weights(weights.planned(), folder / data_file(flavour), graph.model());
  if (separate) separate->write(folder / kOnnxAdapterFile);
  write_atomically(folder / kOnnxModelFile, encode_onnx(graph.model()));
}

}  // namespace tune
