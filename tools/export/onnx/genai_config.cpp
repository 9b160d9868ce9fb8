#include "tools/export/onnx/genai_config.h"

#include "checkpoints/files/json.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

using nlohmann::ordered_json;

/// A key of generation_config.json, else of config.json; null when neither says.
nlohmann::json said(const fs::path& folder, const char* key) {
  for (const char* name : {"generation_config.json", "config.json"}) {
    if (!fs::exists(folder / name)) continue;
    const nlohmann::json json = read_json_object(folder / name);
    if (json.contains(key) && !json[key].is_null()) return json[key];
  }
  return nullptr;
}

ordered_json decoder_json(const ModelConfig& config, const std::string& model_file) {
  return {
      {"filename", model_file},
      {"session_options", {{"log_id", "onnxruntime-genai"}, {"provider_options", ordered_json::array()}}},
      {"head_size", config.head_dim},
      {"hidden_size", config.hidden_size},
      {"num_attention_heads", config.num_attention_heads},
      {"num_hidden_layers", config.num_hidden_layers},
      {"num_key_value_heads", config.num_key_value_heads},
      {"inputs",
       {{"input_ids", "input_ids"},
        {"attention_mask", "attention_mask"},
        {"past_key_names", "past_key_values.%d.key"},
        {"past_value_names", "past_key_values.%d.value"}}},
      {"outputs",
       {{"logits", "logits"}, {"present_key_names", "present.%d.key"}, {"present_value_names", "present.%d.value"}}}};
}

void add_token_ids(const ModelConfig& config, const fs::path& folder, ordered_json& model) {
  if (config.bos_token_id) model["bos_token_id"] = *config.bos_token_id;
  ordered_json ends = said(folder, "eos_token_id");
  if (ends.is_null()) ends = config.eos_token_ids;
  ordered_json padding = said(folder, "pad_token_id");
  if (padding.is_null() && ends.is_array() && !ends.empty()) padding = ends.front();
  if (padding.is_null()) padding = ends.is_number() ? ends : ordered_json(0);
  model["eos_token_id"] = ends;
  model["pad_token_id"] = padding;
}

}  // namespace

std::string genai_config(const ModelConfig& config, const std::string& model_file, const fs::path& folder) {
  ordered_json model = {{"type", config.model_type},
                        {"vocab_size", config.vocab_size},
                        {"context_length", config.max_position_embeddings}};
  add_token_ids(config, folder, model);
  model["decoder"] = decoder_json(config, model_file);
  const ordered_json search = {{"max_length", config.max_position_embeddings},
                               {"min_length", 0},
                               {"do_sample", false},
                               {"num_beams", 1},
                               {"num_return_sequences", 1},
                               {"top_k", 50},
                               {"top_p", 1.0},
                               {"temperature", 1.0},
                               {"repetition_penalty", 1.0},
                               {"past_present_share_buffer", true}};
  return ordered_json{{"model", model}, {"search", search}}.dump(2) + "\n";
}

}  // namespace tune
