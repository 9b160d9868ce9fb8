#include "tools/export/mark.h"

#include <nlohmann/json.hpp>

#include "checkpoints/files/atomic_file.h"
#include "checkpoints/gguf/gguf.h"
#include "recipes/schema/error.h"
#include "recipes/schema/spelling.h"
#include "tools/export/known_base.h"
#include "tools/export/modelfile.h"

namespace tune {

namespace fs = std::filesystem;

void mark_export(const fs::path& folder, const ExportOptions& options, const ExportSource& source) {
  nlohmann::ordered_json json = {{"format", spelling(options.format)}, {"model", source.model.string()}};
  if (options.quant) json["quant"] = spelling(*options.quant);
  if (options.flavour) json["flavour"] = spelling(*options.flavour);
  if (options.separate_adapter) json["separate_adapter"] = true;
  if (source.on_nf4 && !is_adapter(options.format) && !options.separate_adapter)
    json["merge_base"] = spelling(merges_into_nf4(options, source) ? MergeBase::dequantized : MergeBase::original);
  if (source.adapter) json["adapter"] = source.adapter->string();
  if (options.format == ExportFormat::adapter && fs::is_directory(*source.adapter))
    if (const auto base = known_base_of(*source.adapter)) json["base_model_hash"] = base->hash;
  if (source.weights) json["weights"] = source.weights->string();
  write_atomically(folder / kExportMarkFile, json.dump(2) + "\n");
}

bool is_export(const fs::path& path) {
  if (fs::is_directory(path)) return fs::is_regular_file(path / kExportMarkFile);
  if (is_own_modelfile(path)) return true;
  try {
    return GgufFile::alone(path).has(kExportMarkKey);
  } catch (const Error&) {  // something else, or damaged
    return false;
  }
}

}  // namespace tune
