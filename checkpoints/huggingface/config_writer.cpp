#include <nlohmann/json.hpp>

#include "checkpoints/files/json.h"
#include "checkpoints/huggingface/config.h"

namespace tune {

namespace {

using nlohmann::ordered_json;

const char* torch_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::fp32:
      return "float32";
    case Dtype::bf16:
      return "bfloat16";
    case Dtype::fp16:
      return "float16";
  }
  return "float32";
}

ordered_json end_tokens(const std::vector<std::int64_t>& ids) {
  if (ids.empty()) return nullptr;
  if (ids.size() == 1) return ids.front();
  return ids;
}

}  // namespace

std::string write_model_config(const ModelConfig& config, Dtype dtype) {
  const bool mixtral = config.model_type == "mixtral", windowed = mixtral || config.model_type == "mistral";
  const char* architecture = mixtral ? "MixtralForCausalLM" : windowed ? "MistralForCausalLM" : "LlamaForCausalLM";
  ordered_json json = {
      {"architectures", {architecture}},
      {"model_type", config.model_type},
      {"vocab_size", config.vocab_size},
      {"hidden_size", config.hidden_size},
      {"intermediate_size", config.intermediate_size},
      {"num_hidden_layers", config.num_hidden_layers},
      {"num_attention_heads", config.num_attention_heads},
      {"num_key_value_heads", config.num_key_value_heads},
      {"head_dim", config.head_dim},
      {"hidden_act", "silu"},
      {"max_position_embeddings", config.max_position_embeddings},
      {"rms_norm_eps", config.rms_norm_eps},
      {"rope_theta", config.rope_theta},
      {"rope_scaling", nullptr},
      {"attention_bias", false},
      {"tie_word_embeddings", config.tie_word_embeddings},
      {"bos_token_id", config.bos_token_id ? ordered_json(*config.bos_token_id) : ordered_json()},
      {"eos_token_id", end_tokens(config.eos_token_ids)},
      {"torch_dtype", torch_name(dtype)},
  };
  if (mixtral) {
    json["num_local_experts"] = config.num_local_experts;
    json["num_experts_per_tok"] = config.num_experts_per_tok;
    json["router_aux_loss_coef"] = config.router_aux_loss_coef;
    json["output_router_logits"] = false;
  }
  if (windowed)
    json["sliding_window"] = config.sliding_window > 0 ? ordered_json(config.sliding_window) : ordered_json();
  return json.dump(2) + "\n";
}

std::string patch_model_config(const std::string& text, Dtype dtype) {
  parse_json_object(text, "config.json");  // refuses what is no config
  ordered_json json = ordered_json::parse(text);
  const bool version_5 = json.contains("dtype");
  if (version_5) json["dtype"] = torch_name(dtype);
  if (!version_5 || json.contains("torch_dtype")) json["torch_dtype"] = torch_name(dtype);
  return json.dump(2) + "\n";
}

std::string patch_num_hidden_layers(const std::string& text, std::int64_t num_hidden_layers) {
  parse_json_object(text, "config.json");
  ordered_json json = ordered_json::parse(text);
  json["num_hidden_layers"] = num_hidden_layers;
  return json.dump(2) + "\n";
}

}  // namespace tune
