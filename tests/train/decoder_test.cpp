#include "train/model/decoder.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/variable.h>

#include <cstring>
#include <map>

#include "recipes/schema/lora_shape.h"
#include "tests/train/small_models.h"
#include "train/kernels/attention.h"
#include "train/kernels/cross_entropy.h"
#include "train/kernels/rms_norm.h"
#include "train/kernels/rope.h"
#include "train/kernels/swiglu.h"
#include "train/model/dtype.h"
#include "train/objectives/supervised.h"

namespace tune {
namespace {

ModelConfig tiny_config(bool tied, std::int64_t window) {
  return small_model({.hidden = 32, .inner = 48, .window = window, .tied = tied});
}

class RandomWeights : public WeightSource {
 public:
  explicit RandomWeights(const ModelConfig& c) {
    at::manual_seed(7);
    const auto add = [&](const std::string& name, const std::vector<std::int64_t>& shape) {
      values[name] = shape.size() == 1 ? at::rand(shape) + 0.5 : at::randn(shape) * 0.15;
      infos_.push_back({name, "F32", shape});
    };
    const std::int64_t h = c.hidden_size, q = c.num_attention_heads * c.head_dim,
                       kv = c.num_key_value_heads * c.head_dim;
    add("model.embed_tokens.weight", {c.vocab_size, h});
    for (int i = 0; i < c.num_hidden_layers; ++i) {
      const std::string p = "model.layers." + std::to_string(i) + ".";
      add(p + "input_layernorm.weight", {h});
      add(p + "self_attn.q_proj.weight", {q, h});
      add(p + "self_attn.k_proj.weight", {kv, h});
      add(p + "self_attn.v_proj.weight", {kv, h});
      add(p + "self_attn.o_proj.weight", {h, q});
      add(p + "post_attention_layernorm.weight", {h});
      add(p + "mlp.gate_proj.weight", {c.intermediate_size, h});
      add(p + "mlp.up_proj.weight", {c.intermediate_size, h});
      add(p + "mlp.down_proj.weight", {h, c.intermediate_size});
    }
    add("model.norm.weight", {h});
    if (!c.tie_word_embeddings) add("lm_head.weight", {c.vocab_size, h});
  }
  const std::vector<TensorInfo>& tensors() const override { return infos_; }
  void read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const override {
    const at::Tensor t = values.at(std::string(name)).to(scalar_type(dtype)).contiguous();
    std::memcpy(destination.data(), t.const_data_ptr(), destination.size());
  }
  std::map<std::string, at::Tensor> values;

 private:
  std::vector<TensorInfo> infos_;
};

PackedBatch two_documents() {
  PackedBatch batch;
  for (const int length : {9, 14}) {
    for (int i = 0; i < length; ++i) {
      batch.ids.push_back((i * 7 + length) % 61);
      batch.positions.push_back(i);
      batch.labels.push_back(i + 1 < length && i > 2 ? ((i + 1) * 7 + length) % 61 : kNoLabel);
    }
  }
  batch.document_starts = {0, 9, 23};
  return batch;
}

// The same model in plain differentiable ATen. weights: by Hugging Face name; adapters: by PEFT name.
at::Tensor reference_loss(const ModelConfig& c, std::map<std::string, at::Tensor>& w, const AdapterOptions& adapter,
                          const PackedBatch& batch) {
  const auto linear = [&](const at::Tensor& x, const std::string& name) {
    at::Tensor weight = w.at(name + ".weight");
    const std::string key = "base_model.model." + name;
    if (const auto a = w.find(key + ".lora_A.weight"); a != w.end())
      weight = weight + scale_of(adapter, name) * at::matmul(w.at(key + ".lora_B.weight"), a->second);
    if (const auto m = w.find(key + ".lora_magnitude_vector"); m != w.end())
      weight = weight * (m->second / weight.detach().norm(2, {1}, false, at::kFloat)).unsqueeze(1);
    return at::matmul(x, weight.t());
  };
  const AttentionShape shape{c.num_attention_heads, c.num_key_value_heads, c.head_dim, c.sliding_window};
  const at::Tensor positions = at::tensor(batch.positions, at::kInt);
  at::Tensor x = w.at("model.embed_tokens.weight").index_select(0, at::tensor(batch.ids, at::kInt));
  for (int i = 0; i < c.num_hidden_layers; ++i) {
    const std::string p = "model.layers." + std::to_string(i) + ".";
    const at::Tensor n1 = rms_norm_reference(x, w.at(p + "input_layernorm.weight"), c.rms_norm_eps);
    const at::Tensor q =
        rope_reference(linear(n1, p + "self_attn.q_proj"), c.num_attention_heads, c.head_dim, positions, c.rope_theta);
    const at::Tensor k =
        rope_reference(linear(n1, p + "self_attn.k_proj"), c.num_key_value_heads, c.head_dim, positions, c.rope_theta);
    const at::Tensor qkv = at::cat({q, k, linear(n1, p + "self_attn.v_proj")}, 1);
    x = x + linear(attention_reference(qkv, batch.document_starts, shape), p + "self_attn.o_proj");
    const at::Tensor n2 = rms_norm_reference(x, w.at(p + "post_attention_layernorm.weight"), c.rms_norm_eps);
    x = x + linear(swiglu_reference(at::cat({linear(n2, p + "mlp.gate_proj"), linear(n2, p + "mlp.up_proj")}, 1)),
                   p + "mlp.down_proj");
  }
  const at::Tensor hidden = rms_norm_reference(x, w.at("model.norm.weight"), c.rms_norm_eps);
  std::vector<std::int64_t> rows, labels;
  for (std::size_t i = 0; i < batch.labels.size(); ++i)
    if (batch.labels[i] != kNoLabel) {
      rows.push_back(static_cast<std::int64_t>(i));
      labels.push_back(batch.labels[i]);
    }
  return linear_cross_entropy_reference(hidden.index_select(0, at::tensor(rows, at::kLong)),
                                        w.at(c.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight"),
                                        at::tensor(labels, at::kLong));
}

struct Case {
  bool adapter, tied, checkpointing;
  std::int64_t window;
  bool dora = false, pissa = false;  // both with other ranks and scales of some modules
};

class DecoderGradients : public testing::TestWithParam<Case> {};

TEST_P(DecoderGradients, EqualAutograd) {
  const auto [adapter, tied, checkpointing, window, dora, pissa] = GetParam();
  const ModelConfig config = tiny_config(tied, window);
  const RandomWeights weights(config);
  DecoderOptions options{.dtype = Dtype::fp32, .gradient_checkpointing = checkpointing};
  options.adapter = {.type = adapter ? AdapterType::lora : AdapterType::none,
                     .lora_r = 3,
                     .lora_alpha = 6,
                     .use_dora = dora,
                     .init_lora_weights = pissa ? LoraInit::pissa : LoraInit::standard,
                     .lora_target_modules = {"q_proj", "v_proj", "o_proj", "up_proj", "down_proj"}};
  if (dora || pissa) {
    options.adapter.rank_pattern = {{"v_proj", 5}, {"layers.1.mlp.up_proj", 2}, {"up_proj", 1}};
    options.adapter.alpha_pattern = {{"down_proj", 3}, {"q_proj", 7.5}};
  }
  Decoder decoder(config, weights, options);
  std::map<std::string, at::Tensor> reference = weights.values;
  for (Parameter& parameter : decoder.trained()) {
    if (adapter && parameter.name.find("lora_A") == std::string::npos) {
      parameter.master.add_(at::randn_like(parameter.master) * 0.2);
      parameter.value.copy_(parameter.master);
    }
    reference[parameter.name] = parameter.master.clone().contiguous();
  }
  for (std::size_t i = 0; pissa && i < decoder.trained().size(); i += 2) {  // where it began goes into the weight
    const Parameter &a = decoder.trained()[i], &b = decoder.trained()[i + 1];
    const std::string name = a.name.substr(17, a.name.size() - 17 - 14);
    reference[name + ".weight"] =
        reference.at(name + ".weight") + scale_of(options.adapter, name) * at::matmul(b.frozen, a.frozen);
  }
  std::vector<at::Tensor> inputs;
  for (const Parameter& parameter : decoder.trained()) inputs.push_back(reference[parameter.name].requires_grad_());
  const PackedBatch batch = two_documents();
  const at::Tensor expected = reference_loss(config, reference, options.adapter, batch);
  const auto gradients = torch::autograd::grad({expected}, inputs);

  constexpr double kScale = 0.25;
  const Loss loss = supervised_loss(decoder, batch, kScale, true);
  EXPECT_EQ(loss.trained_tokens, batch.trained_tokens());
  EXPECT_NEAR(loss.sum, expected.item<double>(), 1e-5 * expected.item<double>());
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const at::Tensor want = gradients[i] * kScale;
    const double error = (decoder.trained()[i].gradient - want).abs().max().item<double>();
    // fp32 sums of some hundred terms: eps * terms * largest value
    EXPECT_LE(error, 1.2e-7 * 300 * (want.abs().max().item<double>() + 1e-3)) << decoder.trained()[i].name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, DecoderGradients,
                         testing::Values(Case{true, false, false, 0}, Case{true, true, false, 5},
                                         Case{true, false, true, 0}, Case{false, false, false, 0},
                                         Case{false, true, false, 0}, Case{false, false, true, 5},
                                         Case{true, false, false, 0, true}, Case{true, false, true, 5, true},
                                         Case{true, false, false, 0, false, true}));

TEST(Decoder, PissaBeginsAtTheBaseModelAndIsStoredAsPlainLora) {
  const ModelConfig config = tiny_config(false, 0);
  const RandomWeights weights(config);
  for (const std::int64_t iterations : {0, 16}) {
    DecoderOptions options{.dtype = Dtype::fp32};
    options.adapter = {.lora_r = 3, .lora_alpha = 6, .init_lora_weights = LoraInit::pissa, .pissa_iter = iterations};
    Decoder decoder(config, weights, options);
    const PackedBatch batch = two_documents();
    const at::Tensor fresh = decoder.forward(batch, false);
    decoder.set_adapter_enabled(false);
    EXPECT_LE((decoder.forward(batch, false) - fresh).abs().max().item<double>(), 1e-5);
    decoder.set_adapter_enabled(true);
    const Parameter &a = decoder.trained()[0], &b = decoder.trained()[1];
    EXPECT_EQ(a.name, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
    const at::Tensor q = weights.values.at("model.layers.0.self_attn.q_proj.weight");
    const at::Tensor singular = std::get<1>(at::linalg_svd(q, false));
    const at::Tensor left = q - 2 * at::matmul(b.master, a.master);  // its largest singular value is the fourth of q
    EXPECT_NEAR(std::get<1>(at::linalg_svd(left, false))[0].item<double>(), singular[3].item<double>(),
                (iterations == 0 ? 1e-5 : 1e-3) * singular[0].item<double>());
    EXPECT_EQ(stored_shape(a), (std::vector<std::int64_t>{6, config.hidden_size}));
    EXPECT_LE(at::matmul(stored(b), stored(a)).abs().max().item<double>(), 1e-6);
    at::Tensor changed = stored(a) + 1;
    restore(decoder.trained()[0], changed);
    EXPECT_TRUE(at::equal(stored(a), changed));
  }
}

TEST(Decoder, DoraMeasuresOnceAGrowingSequence) {
  const ModelConfig config = tiny_config(false, 0);
  const RandomWeights weights(config);
  DecoderOptions options{.dtype = Dtype::fp32, .training = false};
  options.adapter = {.lora_r = 2, .lora_alpha = 4, .use_dora = true};
  Decoder decoder(config, weights, options);
  const PackedBatch batch = two_documents();
  decoder.forward(batch, false);
  for (Parameter& parameter : decoder.trained()) {
    parameter.master.add_(0.1);
    if (!parameter.value.is_same(parameter.master)) parameter.value.copy_(parameter.master);
  }
  const at::Tensor whole = decoder.forward(batch, false);
  KeyValueCache cache;
  at::Tensor last = decoder.forward_cached({batch.ids.begin(), batch.ids.begin() + 4}, cache);
  for (std::size_t i = 4; i < 9; ++i) last = decoder.forward_cached({batch.ids[i]}, cache);
  EXPECT_LE((last[0] - whole[8]).abs().max().item<double>(), 1e-5);
}

TEST(Decoder, CachedGenerationGivesTheSameHiddenStates) {
  for (const std::int64_t window : {0, 5}) {
    const ModelConfig config = tiny_config(false, window);
    const RandomWeights weights(config);
    DecoderOptions options{.dtype = Dtype::fp32, .training = false};
    options.adapter.type = AdapterType::none;
    Decoder decoder(config, weights, options);
    PackedBatch batch = two_documents();
    batch.ids.resize(9), batch.positions.resize(9), batch.labels.resize(9), batch.document_starts = {0, 9};
    const at::Tensor whole = decoder.forward(batch, false);
    KeyValueCache cache;
    at::Tensor last = decoder.forward_cached({batch.ids.begin(), batch.ids.begin() + 4}, cache);
    for (std::size_t i = 4; i < 9; ++i) last = decoder.forward_cached({batch.ids[i]}, cache);
    EXPECT_LE((last[0] - whole[8]).abs().max().item<double>(), 1e-5) << "window " << window;
  }
}

TEST(Decoder, AdapterOffIsTheBaseModel) {
  const ModelConfig config = tiny_config(false, 0);
  const RandomWeights weights(config);
  DecoderOptions options{.dtype = Dtype::fp32, .training = false};
  options.adapter = {.lora_r = 2, .lora_alpha = 4};
  Decoder decoder(config, weights, options);
  const PackedBatch batch = two_documents();
  const at::Tensor fresh = decoder.forward(batch, false);
  for (Parameter& parameter : decoder.trained()) {
    parameter.master.add_(0.1);
    parameter.value.copy_(parameter.master);
  }
  EXPECT_FALSE(at::equal(decoder.forward(batch, false), fresh));
  decoder.set_adapter_enabled(false);
  EXPECT_TRUE(at::equal(decoder.forward(batch, false), fresh));
}

}  // namespace
}  // namespace tune
