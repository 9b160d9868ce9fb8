#include "tools/export/hf.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "checkpoints/files/atomic_file.h"
#include "checkpoints/files/file_system.h"
#include "checkpoints/huggingface/config.h"
#include "checkpoints/huggingface/convert.h"
#include "checkpoints/huggingface/model_tensors.h"
#include "data/templates/own_template.h"
#include "data/tokenizer/tokenizer.h"
#include "tools/export/hf_tokenizer.h"
#include "tools/export/write_shards.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

/// What belongs to the model and doesn't depend on its weights, licences among it.
void copy_companions(const fs::path& from, const fs::path& to) {
  for (const char* name : {"generation_config.json", "LICENSE", "LICENSE.txt", "NOTICE", "USE_POLICY.md"})
    if (fs::is_regular_file(from / name)) duplicate_file(from / name, to / name);
}

/// transformers stops at the end tokens it is told of; a template may end turns in one that the model hadn't.
void name_end_of_turn(const ModelForExport& model, const fs::path& folder) {
  const std::string_view name = recognise_template(model.chat_template);
  if (name.empty() || find_template(name).end_of_turn().empty()) return;
  const auto end = open_tokenizer(model.base.path)->token_id(find_template(name).end_of_turn());
  std::vector<std::int64_t> ids = model.base.config.eos_token_ids;
  if (!end || std::find(ids.begin(), ids.end(), *end) != ids.end()) return;
  ids.push_back(*end);
  const fs::path file = folder / "generation_config.json";
  auto config = fs::exists(file) ? nlohmann::ordered_json::parse(read_text(file)) : nlohmann::ordered_json::object();
  config["eos_token_id"] = ids;
  write_atomically(file, config.dump(2) + "\n");
}

}  // namespace

void write_companions(const ModelForExport& model, Dtype dtype, const fs::path& folder) {
  const BaseModel& base = model.base;
  const std::string config = base.is_gguf ? write_model_config(base.config, dtype)
                                          : patch_model_config(read_text(base.path / "config.json"), dtype);
  write_atomically(folder / "config.json", config);
  if (!base.is_gguf) copy_companions(base.path, folder);
  write_tokenizer_files(base, model.chat_template, folder);
  name_end_of_turn(model, folder);
}

void export_hf(const ModelForExport& model, Dtype dtype, const fs::path& folder, std::uint64_t max_shard_bytes) {
  write_companions(model, dtype, folder);
  std::vector<TensorInfo> tensors = expected_tensors(model.base.config);
  for (TensorInfo& tensor : tensors) tensor.dtype = dtype_name(dtype);
  write_shards(model.weights, tensors, folder, max_shard_bytes);
}

}  // namespace tune
