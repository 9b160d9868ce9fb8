#include "tools/export/gguf.h"

#include <fmt/format.h>

#include <map>

#include "checkpoints/gguf/blocks/blocks.h"
#include "checkpoints/gguf/names.h"
#include "checkpoints/gguf/tokenizer.h"
#include "checkpoints/gguf/writer.h"
#include "checkpoints/huggingface/model_tensors.h"
#include "recipes/schema/error.h"
#include "recipes/schema/tell.h"
#include "tools/export/gguf_tokenizer.h"
#include "tools/export/gguf_types.h"
#include "tools/export/mark.h"
#include "tools/export/stream.h"

namespace tune {

namespace {

/// "models/zephyr/" and "models/zephyr" are called zephyr, "models/smol.Q4_1.gguf" smol.Q4_1.
std::string name_of(const BaseModel& base) {
  const std::filesystem::path path = std::filesystem::absolute(base.path).lexically_normal();
  if (base.is_gguf) return path.stem().string();
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

/// What the file says of itself and where it comes from.
void append_general(const BaseModel& base, Quant quant, GgufMetadata& metadata) {
  metadata.emplace_back("general.architecture", "llama");
  metadata.emplace_back("general.type", "model");
  std::string name = name_of(base);
  if (base.is_gguf) {
    const GgufFile file(base.path);
    name = file.text("general.name", name);
    for (const char* key : {"general.organization", "general.basename", "general.size_label", "general.license"})
      if (file.has(key)) metadata.emplace_back(key, file.text(key));
  }
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

std::vector<Target> targets_of(const ModelConfig& config, Quant quant) {
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
    targets.push_back({{*name, gguf_type_for(tensor, quant, config), std::move(shape)}, {tensor}});
  }
  return targets;
}

void write_weights(const ModelForExport& model, const std::vector<Target>& targets, GgufWriter& writer) {
  const std::int64_t head_dim = model.base.config.head_dim;
  for (const auto& [target, sources] : targets) {
    const bool permuted = rows_are_permuted(sources.front().name);
    const GgufTypeTraits& traits = *traits_of(target.type);
    const auto encode = [&](std::span<float> rows) {
      if (permuted) permute_rows_for_gguf(rows, target.shape.back(), head_dim);
      std::vector<std::byte> bytes(rows.size() / static_cast<std::size_t>(traits.block) *
                                   static_cast<std::size_t>(traits.block_bytes));
      quantize(target.type, rows, bytes);
      return bytes;
    };
    const RowEncoding encoding{.type = traits.name, .overflow = overflow_of(target.type), .encode = encode};
    for (const TensorInfo& source : sources)
      stream_tensor(model.weights, source, permuted ? head_dim : 1, encoding,
                    [&](std::span<const std::byte> piece) { writer.write_tensor(target.name, piece); });
  }
}

}  // namespace

void export_gguf(const ModelForExport& model, Quant quant, const std::filesystem::path& output) {
  const ModelConfig& config = model.base.config;
  GgufTokenizer tokenizer = tokenizer_for_gguf(model.base);
  if (!model.chat_template.empty()) tokenizer.chat_template = model.chat_template;
  name_end_of_turn(config, tokenizer);
  warn_of_differences(config);

  GgufMetadata metadata;
  append_general(model.base, quant, metadata);
  append_model(config, metadata);
  append_gguf_tokenizer(tokenizer, metadata);
  const std::vector<Target> targets = targets_of(config, quant);
  std::vector<GgufTensorInfo> infos;
  std::uint64_t bytes = 0;
  for (const Target& target : targets) {
    infos.push_back(target.info);
    bytes += stored_bytes(target.info);
  }
  require_free_disk(output, bytes + bytes / 10, "the exported model");
  GgufWriter writer(output, metadata, std::move(infos));
  write_weights(model, targets, writer);
  writer.close();
}

}  // namespace tune
