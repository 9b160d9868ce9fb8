#include "train/model/layer.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>

#include "train/kernels/rms_norm.h"
#include "train/model/dtype.h"
#include "train/model/overflow.h"
#include "train/plan/plan.h"

namespace tune {
namespace {

constexpr std::uint64_t kQkv = 0, kO = 1;  // for Sequence::dropout_key

}  // namespace

Layer::Layer(const ModelConfig& config, std::int64_t index, const DecoderOptions& options)
    : index_(index),
      eps_(config.rms_norm_eps),
      shape_{.query_heads = config.num_attention_heads,
             .kv_heads = config.num_key_value_heads,
             .head_dim = config.head_dim,
             .window = config.sliding_window},
      prefix_(fmt::format("model.layers.{}.", index)),
      mlp_(config, index, prefix_, options) {
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t q = config.num_attention_heads * config.head_dim,
                     kv = config.num_key_value_heads * config.head_dim;
  const auto module = [&](const char* name, std::int64_t rows) {
    return LinearModule{.name = prefix_ + name, .rows = rows};
  };
  qkv_ = LinearGroup({module("self_attn.q_proj", q), module("self_attn.k_proj", kv), module("self_attn.v_proj", kv)},
                     hidden, options);
  o_ = LinearGroup({module("self_attn.o_proj", hidden)}, q, options);
  input_norm = at::empty({hidden}, tensor_options(options));
  post_attention_norm = at::empty({hidden}, tensor_options(options));
  if (!has_adapter(options.adapter)) return;
  const std::vector<std::string> targets = adapted_modules(options.adapter, config);
  for (LinearGroup* group : groups()) group->add_adapter(targets, options);
}

std::vector<LinearGroup*> Layer::groups() {
  std::vector<LinearGroup*> all = {&qkv_, &o_};
  for (LinearGroup* group : mlp_.groups()) all.push_back(group);
  return all;
}

void Layer::train_weights(bool router, bool kept) {
  for (LinearGroup* group : groups())
    if (router || group != mlp_.gate()) group->train_weights(kept);
  if (kept) {
    input_norm_gradient_ = at::empty({0}, input_norm.options().dtype(at::kFloat));
    post_attention_norm_gradient_ = at::empty_like(input_norm_gradient_);
    return;
  }
  const auto master_of = [](const at::Tensor& t) { return t.scalar_type() == at::kFloat ? t : t.to(at::kFloat); };
  input_norm_master_ = master_of(input_norm);
  post_attention_norm_master_ = master_of(post_attention_norm);
  input_norm_gradient_ = at::zeros_like(input_norm_master_);
  post_attention_norm_gradient_ = at::zeros_like(post_attention_norm_master_);
}

std::vector<std::pair<at::Tensor, at::Tensor>> Layer::weights_and_gradients() {
  std::vector<std::pair<at::Tensor, at::Tensor>> all = {{input_norm, input_norm_gradient_},
                                                        {post_attention_norm, post_attention_norm_gradient_}};
  for (LinearGroup* group : groups()) all.emplace_back(group->weight(), group->weight_gradient());
  return all;
}

void Layer::append_parameters(std::vector<Parameter>& parameters) {
  const auto norm = [&](const char* name, at::Tensor& value, at::Tensor& master, at::Tensor& gradient) {
    if (gradient.defined())
      parameters.push_back({.name = prefix_ + name + ".weight",
                            .value = value,
                            .master = master,
                            .gradient = gradient,
                            .decays = false});
  };
  norm("input_layernorm", input_norm, input_norm_master_, input_norm_gradient_);
  qkv_.append_parameters(parameters);
  o_.append_parameters(parameters);
  norm("post_attention_layernorm", post_attention_norm, post_attention_norm_master_, post_attention_norm_gradient_);
  for (LinearGroup* group : mlp_.groups()) group->append_parameters(parameters);
}

at::Tensor Layer::forward(const at::Tensor& x, const Sequence& sequence, LayerTape* tape) const {
  const RmsNormResult norm_1 = rms_norm(x, input_norm, eps_);
  sequence.collect(qkv_, norm_1.y);
  at::Tensor rotated = qkv_.forward(norm_1.y, tape != nullptr ? &tape->qkv_down : nullptr, sequence.adapter,
                                    sequence.dropout_key(index_, kQkv));
  rope_(rotated, shape_.query_heads + shape_.kv_heads, shape_.head_dim, sequence.positions, sequence.rope, false);
  const AttentionResult attended = attention(sequence.to_attended(rotated), sequence.attention_starts(), shape_);
  const at::Tensor out = sequence.from_attended(attended.out);
  sequence.collect(o_, out);
  at::Tensor middle =
      o_.forward(out, tape != nullptr ? &tape->o_down : nullptr, sequence.adapter, sequence.dropout_key(index_, kO));
  const RmsNormResult norm_2 = add_rms_norm_(middle, x, post_attention_norm, eps_);
  at::Tensor y = mlp_.forward(norm_2.y, sequence, tape != nullptr ? &tape->mlp : nullptr);
  y.add_(middle);
  if (tape != nullptr) {
    tape->input = x;
    tape->inv_rms_1 = norm_1.inv_rms;
    tape->qkv = rotated;
    tape->attention = attended;
    tape->middle = middle;
    tape->inv_rms_2 = norm_2.inv_rms;
  }
  return y;
}

at::Tensor Layer::backward(at::Tensor d_y, const Sequence& sequence, LayerTape& tape, bool want_d_x) {
  {
    const at::Tensor normed = rms_norm_recompute(tape.middle, post_attention_norm, tape.inv_rms_2);
    const at::Tensor d_normed = mlp_.backward(d_y, normed, sequence, tape.mlp);
    rms_norm_backward_add_(d_y, d_normed, tape.middle, post_attention_norm, tape.inv_rms_2,
                           post_attention_norm_gradient_);
    tape.middle = at::Tensor();
  }
  at::Tensor d_qkv;
  {
    const at::Tensor d_attended = o_.backward(d_y, sequence.from_attended(tape.attention.out), tape.o_down, true,
                                              sequence.dropout_key(index_, kO));
    d_qkv = sequence.sum_from_attended(attention_backward(sequence.spread_to_attended(d_attended),
                                                          sequence.to_attended(tape.qkv), tape.attention,
                                                          sequence.attention_starts(), shape_));
    tape.qkv = at::Tensor();
    tape.attention = {};
  }
  rope_(d_qkv, shape_.query_heads + shape_.kv_heads, shape_.head_dim, sequence.positions, sequence.rope, true);
  const bool norm_trained = input_norm_gradient_.defined();
  const at::Tensor normed = rms_norm_recompute(tape.input, input_norm, tape.inv_rms_1);
  const at::Tensor d_normed =
      qkv_.backward(d_qkv, normed, tape.qkv_down, want_d_x || norm_trained, sequence.dropout_key(index_, kQkv));
  if (want_d_x || norm_trained)
    rms_norm_backward_add_(d_y, d_normed, tape.input, input_norm, tape.inv_rms_1, input_norm_gradient_);
  tape = {};
  return want_d_x ? d_y : at::Tensor();
}

at::Tensor Layer::forward_cached(const at::Tensor& x, const Sequence& sequence, at::Tensor& cache) const {
  const std::int64_t d = shape_.head_dim, group = shape_.query_heads / shape_.kv_heads, tokens = x.size(0);
  const std::int64_t q_columns = shape_.query_heads * d, kv_columns = shape_.kv_heads * d;
  const RmsNormResult norm_1 = rms_norm(x, input_norm, eps_);
  at::Tensor rotated = qkv_.forward(norm_1.y, nullptr, sequence.adapter, {});
  rope_(rotated, shape_.query_heads + shape_.kv_heads, d, sequence.positions, sequence.rope, false);
  const at::Tensor new_kv = rotated.narrow(1, q_columns, 2 * kv_columns);
  const bool first = !cache.defined();
  cache = first ? new_kv.clone() : at::cat({cache, new_kv});
  at::Tensor attended;
  if (first) {
    attended = attention(rotated, sequence.document_starts, shape_).out;
  } else {
    const std::int64_t seen = shape_.window > 0 ? std::min(shape_.window, cache.size(0)) : cache.size(0);
    const at::Tensor visible = cache.narrow(0, cache.size(0) - seen, seen);
    const at::Tensor keys = visible.narrow(1, 0, kv_columns).view({seen, shape_.kv_heads, d}).permute({1, 2, 0});
    const at::Tensor values =
        visible.narrow(1, kv_columns, kv_columns).view({seen, shape_.kv_heads, d}).transpose(0, 1);
    const at::Tensor query = rotated.narrow(1, 0, q_columns).reshape({shape_.kv_heads, group, d});
    const at::Tensor scores = at::matmul(query, keys).to(at::kFloat).div_(std::sqrt(static_cast<double>(d)));
    attended = at::matmul(at::softmax(scores, -1).to(values.scalar_type()), values).reshape({tokens, q_columns});
  }
  at::Tensor middle = o_.forward(attended, nullptr, sequence.adapter, {});
  const RmsNormResult norm_2 = add_rms_norm_(middle, x, post_attention_norm, eps_);
  return mlp_.forward(norm_2.y, sequence, nullptr).add_(middle);
}

std::string Layer::first_overflow(const LayerTape& tape, const at::Tensor& y) const {
  std::string found = qkv_.first_overflow(tape.qkv);
  if (found.empty()) found = overflow_of(prefix_ + "self_attn", tape.attention.out);
  if (found.empty()) found = o_.first_overflow(tape.middle);
  if (found.empty()) found = mlp_.first_overflow(tape.mlp, y);
  return found;
}

}  // namespace tune
