#pragma once
#include <ATen/ATen.h>

#include <memory>
#include <vector>

#include "tests/train/random_model.h"
#include "train/model/decoder.h"

namespace tune {

constexpr std::int64_t kVocab = 61;

struct SmallModel {
  std::int64_t layers = 2, hidden = 64, inner = 96;
  std::int64_t experts = 0, chosen = 0;  // experts of a token
  std::int64_t window = 0;
  bool tied = false;
};

inline ModelConfig small_model(const SmallModel& m = {}) {
  constexpr std::int64_t kHeads = 4;
  return {.model_type = m.experts > 0  ? "mixtral"
                        : m.window > 0 ? "mistral"
                                       : "llama",
          .vocab_size = kVocab,
          .hidden_size = m.hidden,
          .intermediate_size = m.inner,
          .num_hidden_layers = m.layers,
          .num_attention_heads = kHeads,
          .num_key_value_heads = kHeads / 2,
          .head_dim = m.hidden / kHeads,
          .max_position_embeddings = 64,
          .rms_norm_eps = 1e-5,
          .sliding_window = m.window,
          .tie_word_embeddings = m.tied,
          .num_local_experts = m.experts,
          .num_experts_per_tok = m.chosen};
}

/// With sizes that hardly any number divides.
inline ModelConfig three_layers(bool tied, std::int64_t experts) {
  return small_model(
      {.layers = 3, .hidden = 24, .inner = 40, .experts = experts, .chosen = experts > 0 ? 2 : 0, .tied = tied});
}

/// Every id follows from the one before.
inline PackedBatch document(int length, int first = 0, bool labelled = true) {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < length; ++i) ids.push_back((first + i * 7) % static_cast<std::int32_t>(kVocab));
  PackedBatch batch = one_document(ids);
  for (std::size_t i = 0; labelled && i + 1 < ids.size(); ++i) batch.labels[i] = ids[i + 1];
  return batch;
}

inline std::unique_ptr<Decoder> decoder_of(Dtype dtype, AdapterType type, std::int64_t experts = 0,
                                           std::int64_t chosen = 0) {
  at::manual_seed(5);
  const ModelConfig config = small_model({.experts = experts, .chosen = chosen});
  DecoderOptions options{.dtype = dtype, .train_router = experts > 0 && type == AdapterType::none};
  options.adapter = {.type = type, .lora_r = 4, .lora_alpha = 8};
  options.router_aux_loss_coef = experts > 0 ? 0.02 : 0;
  return std::make_unique<Decoder>(config, RandomModel(config, 0.1), options);
}

}  // namespace tune
