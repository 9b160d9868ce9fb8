#pragma once
#include <filesystem>
#include <optional>
#include <string>

#include "checkpoints/base_model.h"
#include "recipes/schema/recipe.h"
#include "tools/export/importance_matrix.h"

namespace tune {

/// What is handed over.
struct ExportSource {
  std::filesystem::path model;                   // Hugging Face folder or .gguf file: weights, configuration, tokenizer
  std::optional<std::filesystem::path> adapter;  // PEFT folder on top of it, or a GGUF adapter
  std::optional<std::filesystem::path> weights;  // folder whose *.safetensors replace the model's weights
  std::string chat_template;                     // name of the template it was trained with; empty = not known
  bool on_nf4 = false;                           // the adapter was trained on the model in NF4 (qlora)
  std::filesystem::path recipe_file;             // of the run that trained it; empty = it is of no run
};

/// Whether the adapter goes into the weights that it was trained with rather than those that the model has.
bool merges_into_nf4(const ExportOptions& options, const ExportSource& source);

/// Before a run: whatever can be known now to stop one of recipe.exports, or a fine-tuned model's final folder. Errors
/// as of run_export.
void check_exports(const Recipe& recipe, const BaseModel& base);

/// Writes one format and returns where: a folder for adapter, hf and onnx, a file for gguf and gguf_lora, the first of
/// several where max_shard_size splits a gguf. An earlier
/// export of that name is replaced when the new one is whole. Error{Fault::recipe} for a format that there is nothing
/// for, and where something lies that no export has written; Error{Fault::data} for weights that are no numbers, or
/// none in the wanted type, and for a tokenizer that the format can't express; Error{Fault::running} for a disk that is
/// too small. importance: what options.imatrix names.
std::filesystem::path run_export(const ExportOptions& options, const ExportSource& source,
                                 const std::filesystem::path& output, const ImportanceMatrix& importance = {});

/// At the end of a run: the format goes to recipe.output_dir/export.
std::filesystem::path export_run(const Recipe& recipe, const ExportOptions& options,
                                 const std::filesystem::path& final_folder, const ImportanceMatrix& importance = {});

/// What a run folder (recipe.yaml and final/) or one of its checkpoints holds.
/// Error{Fault::data} when it is neither, or the run hasn't got there yet.
ExportSource source_of_run(const std::filesystem::path& folder);

/// The result of full fine-tuning as a folder in Hugging Face layout, stored in train.precision.
void write_tuned_model(const Recipe& recipe, const WeightSource& weights, const std::filesystem::path& folder);

}  // namespace tune
