#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace tune {

/// What distinguishes one decoder from another. Every tensor's name and shape follows from it. Names are those of
/// config.json; values come from the model's files only, never from its name.
struct ModelConfig {
  std::string model_type;  // llama | mistral | mixtral
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;  // of one expert where there are experts
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  std::int64_t sliding_window = 0;  // query i sees keys j with i - window < j <= i; 0 = all earlier ones
  bool tie_word_embeddings = false;
  std::int64_t num_local_experts = 0;    // 0 = a dense MLP
  std::int64_t num_experts_per_tok = 0;  // of which each token visits so many
  double router_aux_loss_coef = 0.0;     // what the model was made with; the recipe decides whether it counts
  std::optional<std::int64_t> bos_token_id;
  std::vector<std::int64_t> eos_token_ids;
};

}  // namespace tune
