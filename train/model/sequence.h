#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "train/kernels/rope.h"
#include "train/model/input_statistics.h"
#include "train/model/linear.h"

namespace tune {

/// What the routers of all layers did in one forward pass, summed over layers and tokens.
struct RouterStatistics {
  at::Tensor assigned;       // [experts] fp32: tokens sent to each expert
  at::Tensor probabilities;  // [experts] fp32: sums of the softmax over all experts
  std::int64_t rows = 0;     // layers * tokens

  void add(const at::Tensor& tokens_per_expert, const at::Tensor& probability_per_expert, std::int64_t tokens);
};

/// What a layer has to know of a micro-batch besides the hidden states.
struct Sequence {
  at::Tensor positions;  // [tokens] int32
  std::vector<std::int32_t> document_starts;
  /// Where a prompt has two answers (PackedBatch::pairs), attention sees each answer with a copy of the prompt before
  /// it: the rows of those documents [tokens there] int64, and of each row of ours its place among them [tokens]. The
  /// copies' own results are not used. Undefined: there are no pairs.
  at::Tensor attended_rows, kept_rows;
  std::vector<std::int32_t> attended_starts;
  RopeTable rope;
  AdapterUse adapter = AdapterUse::on;
  double dropout = 0;
  std::uint64_t dropout_seed = 0;  // of (seed, step, micro-batch)
  /// Experts only. Forward adds to the statistics; null where a layer is computed once more for its backward.
  RouterStatistics* router_statistics = nullptr;
  /// Forward adds to them what the linear layers are given; null = nobody asks.
  InputStatistics* input_statistics = nullptr;
  /// [experts] fp32: the auxiliary loss's gradient by any token's probabilities; undefined = it doesn't count.
  at::Tensor d_router_probabilities;

  const std::vector<std::int32_t>& attention_starts() const {
    return attended_rows.defined() ? attended_starts : document_starts;
  }
  at::Tensor to_attended(const at::Tensor& rows) const {
    return attended_rows.defined() ? rows.index_select(0, attended_rows) : rows;
  }
  at::Tensor from_attended(const at::Tensor& attended) const {
    return kept_rows.defined() ? attended.index_select(0, kept_rows) : attended;
  }
  /// The two's gradients.
  at::Tensor sum_from_attended(const at::Tensor& gradient) const;
  at::Tensor spread_to_attended(const at::Tensor& gradient) const;

  void collect(const LinearGroup& group, const at::Tensor& x, const RowGroups& groups = {}) const {
    if (input_statistics != nullptr) input_statistics->add(group, x, groups);
  }

  /// group: its place in the layer.
  DropoutKey dropout_key(std::int64_t layer, std::uint64_t group) const {
    constexpr std::uint64_t kModulesPerGroup = 4, kGroupsPerLayer = 5;
    return {.probability = dropout,
            .seed = dropout_seed + (static_cast<std::uint64_t>(layer) * kGroupsPerLayer + group) * kModulesPerGroup};
  }
};

}  // namespace tune
