#include "train/model/router.h"

#include <ATen/ATen.h>

namespace tune {
namespace {

// Sorted by expert, and within an expert by token: the same order always.
// -> [experts] int64, how many rows each has.
at::Tensor sort_by_expert(Routing& routing, std::int64_t experts) {
  const at::Tensor flat = routing.chosen.flatten();
  const at::Tensor order = at::argsort(flat, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  routing.token_of_row = at::floor_divide(order, routing.chosen.size(1));
  routing.row_of_choice =
      at::empty_like(order).scatter_(0, order, at::arange(order.size(0), order.options())).view_as(routing.chosen);
  const at::Tensor assigned = flat.unsqueeze(1).eq(at::arange(experts, flat.options())).sum(0);
  routing.groups.ends = assigned.cumsum(0).to(at::kInt);
  return assigned;
}

}  // namespace

void RouterStatistics::add(const at::Tensor& tokens_per_expert, const at::Tensor& probability_per_expert,
                           std::int64_t tokens) {
  assigned = assigned.defined() ? assigned.add_(tokens_per_expert) : tokens_per_expert.to(at::kFloat, false, true);
  probabilities = probabilities.defined() ? probabilities.add_(probability_per_expert) : probability_per_expert.clone();
  rows += tokens;
}

at::Tensor Routing::weight_of_row() const {
  return at::empty_like(weights.flatten()).scatter_(0, row_of_choice.flatten(), weights.flatten()).unsqueeze(1);
}

at::Tensor Routing::rows_of(const at::Tensor& tokens) const { return tokens.index_select(0, token_of_row); }

at::Tensor Routing::summed(const at::Tensor& rows) const {
  at::Tensor sum = rows.index_select(0, row_of_choice.select(1, 0));
  for (std::int64_t i = 1; i < row_of_choice.size(1); ++i) sum.add_(rows.index_select(0, row_of_choice.select(1, i)));
  return sum;
}

at::Tensor Routing::by_choice(const at::Tensor& row_values) const {
  return row_values.index_select(0, row_of_choice.flatten()).view_as(row_of_choice);
}

Router::Router(const ModelConfig& config, std::int64_t layer, const std::string& prefix, const DecoderOptions& options)
    : gate({{.name = prefix + "block_sparse_moe.gate", .rows = config.num_local_experts}}, config.hidden_size, options,
           /*experts=*/1, /*quantizable=*/false),
      layer_(layer),
      experts_(config.num_local_experts),
      chosen_(config.num_experts_per_tok) {}

Routing Router::route(const at::Tensor& x, const Sequence& sequence, bool keep) const {
  Routing routing;
  const at::Tensor logits =
      gate.forward(x, keep ? &routing.down : nullptr, sequence.adapter, sequence.dropout_key(layer_, 4));
  routing.probabilities = at::softmax(logits.to(at::kFloat), -1);
  std::tie(routing.weights, routing.chosen) = at::topk(routing.probabilities, chosen_, -1);
  routing.weights = routing.weights / routing.weights.sum(-1, /*keepdim=*/true);
  const at::Tensor assigned = sort_by_expert(routing, experts_);
  if (sequence.router_statistics != nullptr)
    sequence.router_statistics->add(assigned, routing.probabilities.sum(0), x.size(0));
  return routing;
}

at::Tensor Router::backward(const at::Tensor& d_weights, const at::Tensor& x, const Routing& routing,
                            const Sequence& sequence) {
  // the weights are the softmax of the chosen logits alone
  const at::Tensor& weights = routing.weights;
  const at::Tensor d_chosen = weights * (d_weights - (weights * d_weights).sum(-1, true));
  at::Tensor d_logits = at::zeros_like(routing.probabilities).scatter_(1, routing.chosen, d_chosen);
  if (const at::Tensor& d = sequence.d_router_probabilities; d.defined()) {
    const at::Tensor& p = routing.probabilities;
    d_logits.add_(p * (d - (p * d).sum(-1, true)));
  }
  return gate.backward(d_logits.to(x.scalar_type()), x, routing.down, true, sequence.dropout_key(layer_, 4));
}

}  // namespace tune
