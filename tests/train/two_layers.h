#pragma once
#include <ATen/ATen.h>

#include <memory>

#include "tests/train/random_model.h"
#include "train/model/decoder.h"

namespace tune {

constexpr std::int64_t kVocab = 61;

inline ModelConfig two_layers(std::int64_t experts = 0, std::int64_t chosen = 0) {
  return {.model_type = experts > 0 ? "mixtral" : "llama",
          .vocab_size = kVocab,
          .hidden_size = 64,
          .intermediate_size = 96,
          .num_hidden_layers = 2,
          .num_attention_heads = 4,
          .num_key_value_heads = 2,
          .head_dim = 16,
          .max_position_embeddings = 64,
          .rms_norm_eps = 1e-5,
          .num_local_experts = experts,
          .num_experts_per_tok = chosen};
}

// Every id follows from the one before.
inline PackedBatch document(int length, int seed = 0) {
  PackedBatch batch;
  const auto id = [&](int i) { return static_cast<std::int32_t>((i * 7 + seed) % kVocab); };
  for (int i = 0; i < length; ++i) {
    batch.ids.push_back(id(i));
    batch.positions.push_back(i);
    batch.labels.push_back(i + 1 < length ? id(i + 1) : kNoLabel);
  }
  batch.document_starts = {0, length};
  return batch;
}

inline std::unique_ptr<Decoder> decoder_of(Dtype dtype, AdapterType type, std::int64_t experts = 0,
                                           std::int64_t chosen = 0) {
  at::manual_seed(5);
  const ModelConfig config = two_layers(experts, chosen);
  DecoderOptions options{.dtype = dtype, .train_router = experts > 0 && type == AdapterType::none};
  options.adapter = {.type = type, .lora_r = 4, .lora_alpha = 8};
  options.router_aux_loss_coef = experts > 0 ? 0.02 : 0;
  return std::make_unique<Decoder>(config, RandomModel(config, 0.1), options);
}

}  // namespace tune
