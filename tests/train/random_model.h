#pragma once
#include <ATen/ATen.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "checkpoints/huggingface/model_config.h"
#include "checkpoints/weights.h"
#include "train/model/dtype.h"

namespace tune {

/// A model of any size whose weights are cut out of one block of random numbers (7 B of them need no 7 B
/// draws); its odd length keeps rows from repeating.
class RandomModel : public WeightSource {
 public:
  RandomModel(const ModelConfig& c, double deviation) : pool_(at::randn({(1 << 22) + 17}) * deviation) {
    const std::int64_t h = c.hidden_size, f = c.intermediate_size;
    const std::int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
    add("model.embed_tokens.weight", {c.vocab_size, h});
    for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".";
      add(layer + "input_layernorm.weight", {h});
      add(layer + "self_attn.q_proj.weight", {q, h});
      add(layer + "self_attn.k_proj.weight", {kv, h});
      add(layer + "self_attn.v_proj.weight", {kv, h});
      add(layer + "self_attn.o_proj.weight", {h, q});
      add(layer + "post_attention_layernorm.weight", {h});
      add(layer + "mlp.gate_proj.weight", {f, h});
      add(layer + "mlp.up_proj.weight", {f, h});
      add(layer + "mlp.down_proj.weight", {h, f});
    }
    add("model.norm.weight", {h});
    if (!c.tie_word_embeddings) add("lm_head.weight", {c.vocab_size, h});
  }

  const std::vector<TensorInfo>& tensors() const override { return infos_; }

  void read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const override {
    at::Tensor from = pool_;
    for (const TensorInfo& info : infos_)
      if (info.name == name && info.shape.size() == 1) from = pool_ + 1.0;  // a norm's
    from = from.to(scalar_type(dtype)).contiguous();
    const auto* bytes = static_cast<const std::byte*>(from.const_data_ptr());
    const std::size_t element = from.element_size(), whole = from.nbytes();
    std::size_t at = std::hash<std::string_view>{}(name) % static_cast<std::size_t>(from.numel()) * element;
    for (std::size_t done = 0; done < destination.size(); at = 0) {
      const std::size_t count = std::min(whole - at, destination.size() - done);
      std::memcpy(destination.data() + done, bytes + at, count);
      done += count;
    }
  }

 private:
  void add(const std::string& name, std::vector<std::int64_t> shape) {
    infos_.push_back({name, "F32", std::move(shape)});
  }

  at::Tensor pool_;
  std::vector<TensorInfo> infos_;
};

}  // namespace tune
