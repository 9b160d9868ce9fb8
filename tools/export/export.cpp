#include "tools/export/export.h"

#include <fmt/format.h>

#include <algorithm>

#include "checkpoints/base_model.h"
#include "checkpoints/files/atomic_file.h"
#include "checkpoints/files/atomic_folder.h"
#include "checkpoints/gguf/parts.h"
#include "checkpoints/gguf/tokenizer.h"
#include "checkpoints/huggingface/folder.h"
#include "checkpoints/huggingface/model_tensors.h"
#include "checkpoints/peft/adapter_folder.h"
#include "checkpoints/quantize/nf4_weights.h"
#include "checkpoints/training/manifest.h"
#include "data/templates/own_template.h"
#include "data/tokenizer/tokenizer.h"
#include "recipes/schema/error.h"
#include "recipes/schema/quants.h"
#include "recipes/schema/reader.h"
#include "recipes/schema/spelling.h"
#include "recipes/schema/tell.h"
#include "recipes/schema/units.h"
#include "tools/export/adapter.h"
#include "tools/export/check_vllm.h"
#include "tools/export/gguf.h"
#include "tools/export/gguf_lora.h"
#include "tools/export/gguf_tokenizer.h"
#include "tools/export/hf.h"
#include "tools/export/hf_tokenizer.h"
#include "tools/export/import_gguf_lora.h"
#include "tools/export/mark.h"
#include "tools/export/merge.h"
#include "tools/export/model_card.h"
#include "tools/export/modelfile.h"
#include "tools/export/onnx/onnx.h"
#include "tools/export/output.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

Dtype dtype_of(Quant quant) {
  switch (quant) {
    case Quant::f32:
      return Dtype::fp32;
    case Quant::f16:
      return Dtype::fp16;
    case Quant::bf16:
      return Dtype::bf16;
    default:
      throw Bug(fmt::format("hf with {}", spelling(quant)));  // check_format has seen it
  }
}

Quant quant_of(const ExportOptions& options) { return options.quant.value_or(kDefaultQuant); }

std::uint64_t shard_bytes_of(const ExportOptions& options, std::uint64_t otherwise) {
  if (options.max_shard_size.empty()) return otherwise;
  return static_cast<std::uint64_t>(parse_shard_size(options.max_shard_size, "max_shard_size"));
}

OnnxFlavour flavour_of(const ExportOptions& options) { return options.flavour.value_or(kDefaultFlavour); }

/// The template that the model was trained with, unless the model's own says the same: that one may say more, such as
/// ChatML's first system turn, and training respects it.
std::string template_to_write(const std::string& trained_with, const BaseModel& base) {
  if (trained_with.empty() || trained_with == "none") return "";
  const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(base.path);
  const ChatTemplate& format = find_template(trained_with, *tokenizer);
  return own_template_serves(format, *tokenizer) ? "" : std::string(format.jinja_for(*tokenizer));
}

/// output: a file for gguf, the folder to fill for hf and onnx. Returns where it is, for gguf maybe the first of
/// several.
fs::path export_model(const ExportOptions& options, const ExportSource& source, const BaseModel& base,
                      const fs::path& output, const ImportanceMatrix& importance) {
  std::unique_ptr<WeightSource> replaced;
  if (source.weights) {
    replaced = open_huggingface_weights(*source.weights);
    check_tensors(base.config, *replaced, source.weights->string());
  }
  std::optional<AdapterFolder> adapter;
  std::optional<Nf4Weights> quantized;
  std::optional<MergedWeights> merged;
  if (source.adapter) {
    adapter.emplace(*source.adapter);
    if (merges_into_nf4(options, source)) quantized.emplace(*base.weights);
    merged.emplace(quantized ? static_cast<const WeightSource&>(*quantized) : *base.weights, *adapter,
                   source.adapter->string());
  }
  if (options.separate_adapter && adapter)
    refuse_more_than_factors(*adapter, "a graph can't add at run time",
                             "leave --separate-adapter out: it is merged then");
  const bool is_merged = merged && !options.separate_adapter;  // what isn't merged has been checked all the same
  const WeightSource& weights = is_merged ? *merged : replaced ? *replaced : *base.weights;
  const ModelForExport model{base, weights, template_to_write(source.chat_template, base)};
  if (options.format == ExportFormat::gguf)
    return export_gguf(
        model,
        {.quant = quant_of(options), .max_shard_bytes = shard_bytes_of(options, UINT64_MAX), .importance = importance},
        output);
  if (options.format == ExportFormat::onnx)
    export_onnx(model,
                {.flavour = flavour_of(options),
                 .quant = quant_of(options),
                 .separate_adapter = options.separate_adapter ? &*adapter : nullptr},
                output);
  else
    export_hf(model, dtype_of(quant_of(options)), output, shard_bytes_of(options, kMaxShardBytes));
  return output;
}

bool is_gguf_file(ExportFormat format) { return format == ExportFormat::gguf || format == ExportFormat::gguf_lora; }

bool is_folder(ExportFormat format) { return !is_gguf_file(format); }

/// What has the name is replaced: never what is being read, never what no export has written.
void check_replaced(const ExportSource& source, ExportFormat format, const fs::path& path) {
  const auto refuse = [&](const std::string& what, const std::string& remedy = "give another output") {
    throw Error{Fault::recipe, {path.string()}, what, remedy};
  };
  for (const auto& input : {std::optional(source.model), source.adapter, source.weights})
    if (input && is_or_holds(path, *input)) refuse("is, or holds, what is exported");
  if (!fs::exists(path)) return;
  if (fs::is_directory(path) != is_folder(format))
    refuse(is_folder(format) ? "is a file, a folder is to be written" : "is a folder, a file is to be written");
  if (!fs::is_empty(path) && !is_export(path))
    refuse("was written by no export", "give another output, or remove it first");
}

void check_output(const ExportSource& source, ExportFormat format, const fs::path& output) {
  if (output.empty()) throw Error{Fault::recipe, {}, "the output has no name", "give --output PATH"};
  check_replaced(source, format, output);
  if (is_gguf_file(format)) check_replaced(source, format, modelfile_path(output));
  if (format != ExportFormat::gguf) return;
  for (const fs::path& part : existing_gguf_parts(output)) check_replaced(source, format, part);
}

/// What the tokenizer and the configuration have to say against a format.
void check_format(const ExportOptions& options, const BaseModel& base) {
  if (is_adapter(options.format)) return;
  if (const QuantFault fault = fault_of(options.format, quant_of(options)); !fault.what.empty())
    throw Error{Fault::recipe, {}, fault.what, fault.remedy};
  if (options.format == ExportFormat::gguf)
    tokenizer_for_gguf(base);
  else
    check_tokenizer_files(base);
  if (options.format == ExportFormat::onnx) check_onnx_flavour(base, flavour_of(options));
}

/// And beside it what Ollama needs. Returns the file, maybe the first of several.
fs::path export_gguf_file(const ExportOptions& options, const ExportSource& source, const BaseModel& base,
                          const fs::path& output, const ImportanceMatrix& importance) {
  fs::path written = output;
  std::vector<fs::path> files;               // of a model
  std::optional<std::string> chat_template;  // of an adapter it may not be known
  if (options.format == ExportFormat::gguf_lora) {
    export_gguf_lora(base, *source.adapter, output);
  } else {
    written = export_model(options, source, base, output, importance);
    files = written == output ? std::vector{output} : existing_gguf_parts(output);
  }
  remove_leftovers_of(modelfile_path(output));
  if (!files.empty() || !source.chat_template.empty()) chat_template = template_to_write(source.chat_template, base);
  write_modelfile(base, chat_template, output, files);
  return written;
}

fs::path output_in(const Recipe& recipe, const ExportOptions& options) {
  fs::path folder = fs::path(recipe.output_dir) / "export";
  switch (options.format) {
    case ExportFormat::adapter:
      return folder / "adapter";
    case ExportFormat::hf:
      return folder / "hf";
    case ExportFormat::gguf:
      return folder / fmt::format("model-{}.gguf", spelling(quant_of(options)));
    case ExportFormat::gguf_lora:
      return folder / "adapter.gguf";
    case ExportFormat::onnx:
      return folder / fmt::format("onnx-{}-{}{}", spelling(flavour_of(options)), spelling(quant_of(options)),
                                  options.separate_adapter ? "-adapter" : "");
  }
  return folder;
}

}  // namespace

bool merges_into_nf4(const ExportOptions& options, const ExportSource& source) {
  if (!source.adapter || is_adapter(options.format) || options.separate_adapter) return false;
  return options.merge_base.value_or(source.on_nf4 ? MergeBase::dequantized : MergeBase::original) ==
         MergeBase::dequantized;
}

void check_exports(const Recipe& recipe, const BaseModel& base) {
  for (const ExportOptions& options : recipe.exports) {
    check_output({.model = base.path}, options.format, output_in(recipe, options));
    check_format(options, base);
    if (options.check) check_vllm(base.config, recipe.adapter);
  }
  if (!has_adapter(recipe.adapter)) check_tokenizer_files(base);  // final/ is a whole model
}

fs::path run_export(const ExportOptions& options, const ExportSource& source, const fs::path& output,
                    const ImportanceMatrix& importance) {
  if (is_adapter(options.format) && !source.adapter)
    throw Error{Fault::recipe,
                {},
                fmt::format("format {} needs an adapter, and there is none", spelling(options.format)),
                "use the format hf, gguf or onnx for a whole model"};
  if (options.separate_adapter && !source.adapter)
    throw Error{Fault::recipe, {}, "there is no adapter to keep apart", "leave --separate-adapter out"};
  const bool from_gguf = source.adapter && is_gguf_adapter(*source.adapter);
  if (from_gguf && options.format != ExportFormat::adapter)
    throw Error{Fault::recipe,
                {source.adapter->string()},
                "is a GGUF adapter",
                "make a PEFT folder of it first: tune export --format adapter"};
  check_output(source, options.format, output);
  const BaseModel base = open_base_model(source.model);
  check_format(options, base);
  if (options.check && !from_gguf) check_vllm(base.config, *source.adapter);  // first: our own reader refuses others
  remove_leftovers_of(output);
  if (is_gguf_file(options.format)) return export_gguf_file(options, source, base, output, importance);
  AtomicFolder folder(output);
  if (from_gguf)
    import_gguf_lora(base, *source.adapter, folder.path());
  else if (options.format == ExportFormat::adapter)
    export_adapter(base, *source.adapter, folder.path());
  else
    export_model(options, source, base, folder.path(), importance);
  const std::int64_t rank = options.check ? check_vllm(base.config, folder.path()) : 0;
  write_atomically(folder.path() / "README.md", model_card(options, source, base));
  mark_export(folder.path(), options, source);
  folder.commit();
  if (options.check)
    tell("vllm serve {} --enable-lora --max-lora-rank {} --lora-modules {}={}\n",
         base.is_gguf ? "BASE" : base.path.string(), rank, name_of(output), output.string());
  return output;
}

fs::path export_run(const Recipe& recipe, const ExportOptions& options, const fs::path& final_folder,
                    const ImportanceMatrix& importance) {
  ExportSource source{.model = recipe.model.base_model, .chat_template = recipe.data.chat_template};
  source.on_nf4 = recipe.adapter.type == AdapterType::qlora;
  source.recipe_file = fs::path(recipe.output_dir) / "recipe.yaml";
  if (fs::exists(final_folder / kAdapterConfigFile))
    source.adapter = final_folder;
  else
    source.model = final_folder;
  return run_export(options, source, output_in(recipe, options), importance);
}

ExportSource source_of_run(const fs::path& folder) {
  const bool is_run = fs::exists(folder / "recipe.yaml");
  const fs::path absolute = fs::absolute(folder).lexically_normal();
  const fs::path parent = absolute.has_filename() ? absolute.parent_path() : absolute.parent_path().parent_path();
  const fs::path recipe_file = (is_run ? folder : parent) / "recipe.yaml";
  if (!fs::exists(recipe_file))
    throw Error{Fault::data,
                {folder.string()},
                "is no run folder (no recipe.yaml), nor a checkpoint of one",
                "give the output_dir of a run"};
  const Recipe recipe = read_recipe(recipe_file);
  const fs::path result = is_run ? folder / "final" : folder;
  if (!fs::is_directory(result))
    throw Error{Fault::data,
                {folder.string()},
                "the run isn't finished: there is no final folder",
                "finish it, or give one of its checkpoint folders"};
  ExportSource source{.model = recipe.model.base_model,
                      .chat_template = recipe.data.chat_template,
                      .on_nf4 = recipe.adapter.type == AdapterType::qlora,
                      .recipe_file = recipe_file};
  if (fs::exists(result / kManifestFile)) check_files(result, read_manifest(result));
  if (fs::exists(result / kAdapterConfigFile))
    source.adapter = result;
  else if (fs::exists(result / "config.json"))
    source.model = result;
  else
    source.weights = result;
  return source;
}

void write_tuned_model(const Recipe& recipe, const WeightSource& weights, const fs::path& folder) {
  const BaseModel base = open_base_model(recipe.model.base_model);
  AtomicFolder final_folder(folder);
  const ExportSource source{.model = base.path, .recipe_file = fs::path(recipe.output_dir) / "recipe.yaml"};
  write_atomically(final_folder.path() / "README.md", model_card({.format = ExportFormat::hf}, source, base));
  export_hf({base, weights, template_to_write(recipe.data.chat_template, base)}, dtype_of(recipe.train.precision),
            final_folder.path());
  final_folder.commit();
}

}  // namespace tune
