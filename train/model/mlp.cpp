#include "train/model/mlp.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "train/kernels/swiglu.h"
#include "train/model/overflow.h"

namespace tune {
namespace {

constexpr std::uint64_t kGateUp = 2, kDown = 3;  // for Sequence::dropout_key

}  // namespace

Mlp::Mlp(const ModelConfig& config, std::int64_t layer, const std::string& prefix, const DecoderOptions& options)
    : layer_(layer), prefix_(prefix) {
  const std::int64_t hidden = config.hidden_size, inner = config.intermediate_size, experts = config.num_local_experts;
  if (experts == 0) {
    gate_up_ = LinearGroup(
        {{.name = prefix + "mlp.gate_proj", .rows = inner}, {.name = prefix + "mlp.up_proj", .rows = inner}}, hidden,
        options);
    down_ = LinearGroup({{.name = prefix + "mlp.down_proj", .rows = hidden}}, inner, options);
    return;
  }
  router_.emplace(config, layer, prefix, options);
  std::vector<LinearModule> gates_and_ups, downs;
  for (std::int64_t i = 0; i < experts; ++i) {
    const std::string expert = fmt::format("{}block_sparse_moe.experts.{}.", prefix, i);
    gates_and_ups.push_back({.name = expert + "w1", .rows = inner});
    gates_and_ups.push_back({.name = expert + "w3", .rows = inner});
    downs.push_back({.name = expert + "w2", .rows = hidden});
  }
  gate_up_ = LinearGroup(std::move(gates_and_ups), hidden, options, experts);
  down_ = LinearGroup(std::move(downs), inner, options, experts);
}

std::vector<LinearGroup*> Mlp::groups() {
  if (router_) return {&router_->gate, &gate_up_, &down_};
  return {&gate_up_, &down_};
}

at::Tensor Mlp::forward(const at::Tensor& x, const Sequence& sequence, MlpTape* tape) const {
  Routing routing;
  if (router_) routing = router_->route(x, sequence, tape != nullptr);
  at::Tensor rows = router_ ? routing.rows_of(x) : x;
  sequence.collect(gate_up_, rows, routing.groups);
  at::Tensor gate_up = gate_up_.forward(rows, tape != nullptr ? &tape->gate_up_down : nullptr, sequence.adapter,
                                        sequence.dropout_key(layer_, kGateUp), routing.groups);
  rows.reset();
  at::Tensor inner = swiglu(gate_up);
  sequence.collect(down_, inner, routing.groups);  // before the router's weights, as the published model has it
  if (router_) inner.mul_(routing.weight_of_row());
  at::Tensor y = down_.forward(inner, tape != nullptr ? &tape->down_down : nullptr, sequence.adapter,
                               sequence.dropout_key(layer_, kDown), routing.groups);
  if (router_) y = routing.summed(y);
  if (tape != nullptr) *tape = {tape->gate_up_down, gate_up, tape->down_down, std::move(routing)};
  return y;
}

at::Tensor Mlp::backward(const at::Tensor& d_y, const at::Tensor& x, const Sequence& sequence, MlpTape& tape) {
  const Routing& routing = tape.routing;
  at::Tensor d_weights;
  {
    at::Tensor inner = swiglu(tape.gate_up);
    const at::Tensor weight = router_ ? routing.weight_of_row() : at::Tensor();
    at::Tensor d_inner =
        down_.backward(router_ ? routing.rows_of(d_y) : d_y, router_ ? inner.clone().mul_(weight) : inner,
                       tape.down_down, true, sequence.dropout_key(layer_, kDown), routing.groups);
    if (router_) {
      d_weights = routing.by_choice(inner.mul_(d_inner).sum(-1, false, at::kFloat));
      d_inner.mul_(weight);
    }
    swiglu_backward_(tape.gate_up, d_inner);
  }
  at::Tensor d_x = gate_up_.backward(tape.gate_up, router_ ? routing.rows_of(x) : x, tape.gate_up_down, true,
                                     sequence.dropout_key(layer_, kGateUp), routing.groups);
  if (router_) d_x = routing.summed(d_x).add_(router_->backward(d_weights, x, routing, sequence));
  tape = {};
  return d_x;
}

std::string Mlp::first_overflow(const MlpTape& tape, const at::Tensor& y) const {
  std::string found = gate_up_.first_overflow(tape.gate_up, tape.routing.groups);
  if (found.empty())
    found = overflow_of(prefix_ + (router_ ? "block_sparse_moe.act_fn" : "mlp.act_fn"), swiglu(tape.gate_up));
  // experts' own outputs are added up at once
  if (found.empty()) found = router_ ? overflow_of(prefix_ + "block_sparse_moe", y) : down_.first_overflow(y);
  return found;
}

}  // namespace tune
