#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoints/huggingface/model_config.h"
#include "train/kernels/grouped_matmul.h"
#include "train/model/sequence.h"

namespace tune {

/// Which experts the tokens of a micro-batch visit, and the rows that the experts compute: one a token and choice,
/// expert by expert.
struct Routing {
  at::Tensor probabilities;  // [tokens, experts] fp32, softmax over all experts
  at::Tensor chosen;         // [tokens, k] int64
  at::Tensor weights;        // [tokens, k] fp32: the chosen ones' probabilities, made to sum to one
  at::Tensor token_of_row;   // [tokens * k] int64
  at::Tensor row_of_choice;  // [tokens, k] int64
  RowGroups groups;          // rows of each expert
  at::Tensor down;           // what the gate's adapter needs for its backward

  at::Tensor weight_of_row() const;                          // [tokens * k, 1] fp32
  at::Tensor rows_of(const at::Tensor& tokens) const;        // [tokens, n] -> [tokens * k, n]
  at::Tensor summed(const at::Tensor& rows) const;           // [tokens * k, n] -> [tokens, n]: each token's rows, added
  at::Tensor by_choice(const at::Tensor& row_values) const;  // [tokens * k] -> [tokens, k]
};

/// Mixtral's router (Jiang et al. 2024): softmax over all experts in fp32, the k largest, made to sum to one.
class Router {
 public:
  Router(const ModelConfig& config, std::int64_t layer, const std::string& prefix, const DecoderOptions& options);

  /// x [tokens, hidden]; adds to sequence.router_statistics where that is asked for.
  Routing route(const at::Tensor& x, const Sequence& sequence, bool keep) const;

  /// d_weights [tokens, k] fp32 -> d_x [tokens, hidden]. Adds the auxiliary loss's gradient, and those of the gate
  /// where it is trained.
  at::Tensor backward(const at::Tensor& d_weights, const at::Tensor& x, const Routing& routing,
                      const Sequence& sequence);

  LinearGroup gate;

 private:
  std::int64_t layer_, experts_, chosen_;
};

}  // namespace tune
