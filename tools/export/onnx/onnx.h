#pragma once
#include <filesystem>

#include "checkpoints/peft/adapter_folder.h"
#include "recipes/schema/recipe.h"
#include "tools/export/model.h"

namespace tune {

/// Error{Fault::recipe} for a model that the flavour can't express, with the reason and the other flavour;
/// Error{Fault::data} for a tokenizer that it can't.
void check_onnx_flavour(const BaseModel& base, OnnxFlavour flavour);

struct OnnxExport {
  OnnxFlavour flavour = kDefaultFlavour;
  Quant quant = kDefaultQuant;
  const AdapterFolder* separate_adapter = nullptr;  // not in the weights: a file that is loaded at run time
};

/// Fills a folder: the decoder with its cache as model.onnx, the weights in a data file beside it, and what goes with a
/// Hugging Face folder (config.json, generation_config.json, tokenizer files); for genai also genai_config.json.
/// Streamed: a few MB and the largest matrix as it is written. Errors as of export_hf. folder: an AtomicFolder's
/// path().
void export_onnx(const ModelForExport& model, const OnnxExport& wanted, const std::filesystem::path& folder);

}  // namespace tune
