#include "tools/export/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <map>
#include <set>

#include "checkpoints/files/atomic_folder.h"
#include "checkpoints/files/split.h"
#include "checkpoints/gguf/blocks/blocks.h"
#include "checkpoints/gguf/names.h"
#include "checkpoints/gguf/parts.h"
#include "checkpoints/gguf/tokenizer.h"
#include "checkpoints/gguf/writer.h"
#include "checkpoints/huggingface/model_tensors.h"
#include "recipes/schema/error.h"
#include "recipes/schema/tell.h"
#include "tools/export/gguf_tokenizer.h"
#include "tools/export/gguf_types.h"
#include "tools/export/mark.h"
#include "tools/export/model_card.h"
#include "tools/export/stream.h"

namespace tune {

namespace {

/// What the file says of itself and where it comes from.
void append_general(const BaseModel& base, Quant quant, GgufMetadata& metadata) {
  metadata.emplace_back("general.architecture", "llama");
  metadata.emplace_back("general.type", "model");
  std::string name = name_of(base.path);
  if (base.is_gguf) {
    const GgufFile file(base.path);
    name = file.text("general.name", name);
    for (const char* key : {"general.organization", "general.basename", "general.size_label"})
      if (file.has(key)) metadata.emplace_back(key, file.text(key));
  }
  const auto [license, license_name, license_link] = licence_of(base);
  if (!license.empty()) metadata.emplace_back("general.license", license);
  if (!license_name.empty()) metadata.emplace_back("general.license.name", license_name);
  if (!license_link.empty()) metadata.emplace_back("general.license.link", license_link);
  metadata.emplace_back("general.name", name);
  metadata.emplace_back("general.base_model.count", std::uint32_t{1});
  metadata.emplace_back("general.base_model.0.name", name);
  metadata.emplace_back(kExportMarkKey, "gguf");
  metadata.emplace_back("general.file_type", gguf_file_type(quant));
  metadata.emplace_back("general.quantization_version", std::uint32_t{2});
}

void append_model(const ModelConfig& config, GgufMetadata& metadata) {
  const auto add = [&](const char* key, std::int64_t value) {
    metadata.emplace_back(std::string("llama.") + key, static_cast<std::uint32_t>(value));
  };
  add("block_count", config.num_hidden_layers);
  add("context_length", config.max_position_embeddings);
  add("embedding_length", config.hidden_size);
  add("feed_forward_length", config.intermediate_size);
  add("attention.head_count", config.num_attention_heads);
  add("attention.head_count_kv", config.num_key_value_heads);
  add("rope.dimension_count", config.head_dim);
  if (config.head_dim * config.num_attention_heads != config.hidden_size) {
    add("attention.key_length", config.head_dim);
    add("attention.value_length", config.head_dim);
  }
  if (config.num_local_experts > 0) {
    add("expert_count", config.num_local_experts);
    add("expert_used_count", config.num_experts_per_tok);
  }
  add("vocab_size", config.vocab_size);
  metadata.emplace_back("llama.attention.layer_norm_rms_epsilon", static_cast<float>(config.rms_norm_eps));
  metadata.emplace_back("llama.rope.freq_base", static_cast<float>(config.rope_theta));
}

/// Where the choice of scales comes from, under llama-quantize's names.
void append_importance(const ImportanceMatrix& matrix, GgufMetadata& metadata) {
  if (matrix.empty()) return;
  metadata.emplace_back("quantize.imatrix.dataset", matrix.dataset);
  std::set<std::string> entries;  // experts are one, stacked
  for (const auto& [weight, columns] : matrix.of_weight) entries.insert(gguf_name(weight).value());
  metadata.emplace_back("quantize.imatrix.entries_count", static_cast<std::uint32_t>(entries.size()));
  metadata.emplace_back("quantize.imatrix.chunks_count", static_cast<std::uint32_t>(matrix.rows));
}

void warn_of_differences(const ModelConfig& config) {
  if (config.sliding_window > 0 && config.sliding_window < config.max_position_embeddings)
    tell("note: llama.cpp ignores this model's sliding window: texts of more than {} tokens get other answers there\n",
         config.sliding_window);
}

/// A tensor of the file and what it is made of: one of the model's tensors, or those of all experts, stacked.
struct Target {
  GgufTensorInfo info;
  std::vector<TensorInfo> sources;
};

std::vector<Target> targets_of(const ModelConfig& config, Quant quant, bool has_importance) {
  std::vector<Target> targets;
  std::map<std::string, std::size_t> stacks;
  for (const TensorInfo& tensor : expected_tensors(config)) {
    const auto name = gguf_name(tensor.name);
    TUNE_CHECK(name, "no GGUF name for {}", tensor.name);
    if (const auto stack = stacks.find(*name); stack != stacks.end()) {
      targets[stack->second].sources.push_back(tensor);
      continue;
    }
    std::vector<std::int64_t> shape = tensor.shape;
    if (holds_stacked_experts(*name)) {
      shape.insert(shape.begin(), config.num_local_experts);
      stacks[*name] = targets.size();
    }
    targets.push_back({{*name, gguf_type_for(tensor, quant, config, has_importance), std::move(shape)}, {tensor}});
  }
  return targets;
}

/// The targets in order, in files of at most max_bytes.
std::vector<std::vector<Target>> split(std::vector<Target> targets, std::uint64_t max_bytes) {
  std::vector<std::uint64_t> sizes;
  for (const Target& target : targets) sizes.push_back(stored_bytes(target.info));
  const std::vector<std::size_t> files = split_by_size(sizes, max_bytes);
  std::vector<std::vector<Target>> parts(files.back() + 1);
  for (std::size_t i = 0; i < targets.size(); ++i) parts[files[i]].push_back(std::move(targets[i]));
  return parts;
}

/// What a part says beside its tensors: the first one all there is to say of the model.
GgufMetadata metadata_of_part(const GgufMetadata& whole, std::size_t index, std::size_t parts, std::size_t tensors) {
  GgufMetadata metadata = whole;
  if (index > 0) metadata = {{kExportMarkKey, "gguf"}};
  if (parts == 1) return metadata;
  metadata.emplace_back(kPartNumberKey, static_cast<std::uint16_t>(index));
  metadata.emplace_back(kPartCountKey, static_cast<std::uint16_t>(parts));
  metadata.emplace_back(kPartTensorsKey, static_cast<std::int32_t>(tensors));
  return metadata;
}

void write_weights(const ModelForExport& model, const ImportanceMatrix& matrix, const std::vector<Target>& targets,
                   GgufWriter& writer) {
  const std::int64_t head_dim = model.base.config.head_dim;
  for (const auto& [target, sources] : targets) {
    const bool permuted = rows_are_permuted(sources.front().name);
    const GgufTypeTraits& traits = *traits_of(target.type);
    std::vector<float> importance;  // of the columns of what is being streamed
    const auto encode = [&](std::span<float> rows) {
      if (permuted) permute_rows_for_gguf(rows, target.shape.back(), head_dim);
      std::vector<std::byte> bytes(rows.size() / static_cast<std::size_t>(traits.block) *
                                   static_cast<std::size_t>(traits.block_bytes));
      quantize(target.type, rows, bytes, importance);
      return bytes;
    };
    const RowEncoding encoding{.type = traits.name, .overflow = overflow_of(target.type), .encode = encode};
    for (const TensorInfo& source : sources) {
      importance = matrix.of(source.name);
      stream_tensor(model.weights, source, permuted ? head_dim : 1, encoding,
                    [&](std::span<const std::byte> piece) { writer.write_tensor(target.name, piece); });
    }
  }
}

std::uint64_t bytes_of(const std::vector<Target>& targets) {
  std::uint64_t sum = 0;
  for (const Target& target : targets) sum += stored_bytes(target.info);
  return sum;
}

/// What has the name of the export, whole or in parts, and isn't one of `written`.
std::vector<std::filesystem::path> earlier_files(const std::filesystem::path& output,
                                                 const std::vector<std::filesystem::path>& written) {
  std::vector<std::filesystem::path> earlier = existing_gguf_parts(output);
  if (std::filesystem::exists(output)) earlier.push_back(output);
  std::erase_if(earlier, [&](const auto& file) {
    return std::any_of(written.begin(), written.end(),
                       [&](const auto& part) { return part.filename() == file.filename(); });
  });
  return earlier;
}

}  // namespace

std::filesystem::path export_gguf(const ModelForExport& model, const GgufExport& wanted,
                                  const std::filesystem::path& output) {
  const ModelConfig& config = model.base.config;
  GgufTokenizer tokenizer = tokenizer_for_gguf(model.base);
  if (!model.chat_template.empty()) tokenizer.chat_template = model.chat_template;
  name_end_of_turn(config, tokenizer);
  warn_of_differences(config);

  GgufMetadata metadata;
  append_general(model.base, wanted.quant, metadata);
  append_model(config, metadata);
  append_gguf_tokenizer(tokenizer, metadata);
  append_importance(wanted.importance, metadata);
  std::vector<Target> targets = targets_of(config, wanted.quant, !wanted.importance.empty());
  const std::size_t tensors = targets.size();
  const std::uint64_t bytes = bytes_of(targets);
  require_free_disk(output, bytes + bytes / 10, "the exported model");
  const std::vector<std::vector<Target>> parts = split(std::move(targets), wanted.max_shard_bytes);
  std::vector<std::filesystem::path> files;
  for (std::size_t i = 1; i <= parts.size(); ++i)
    files.push_back(parts.size() == 1 ? output : gguf_part_path(output, i, parts.size()));

  std::deque<GgufWriter> writers;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    std::vector<GgufTensorInfo> infos;
    for (const Target& target : parts[i]) infos.push_back(target.info);
    writers.emplace_back(files[i], metadata_of_part(metadata, i, parts.size(), tensors), std::move(infos));
    write_weights(model, wanted.importance, parts[i], writers.back());
  }
  for (auto writer = writers.rbegin(); writer != writers.rend(); ++writer)
    writer->close();  // what is opened comes last
  for (const std::filesystem::path& file : earlier_files(output, files)) remove_atomically(file);
  return files.front();
}

}  // namespace tune
