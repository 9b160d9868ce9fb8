#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checkpoints/huggingface/model_config.h"
#include "train/model/linear.h"
#include "train/model/router.h"
#include "train/model/sequence.h"

namespace tune {

/// What the backward needs. Element sizes and shapes decide the memory plan (train/plan/memory.cpp): change both
/// together.
struct MlpTape {
  at::Tensor gate_up_down, gate_up, down_down;  // a row a token, or a token and chosen expert
  Routing routing;                              // experts only
};

/// down(silu(gate(x)) * up(x)) (Shazeer 2020); where the model has experts, of the chosen ones, weighted by the router.
class Mlp {
 public:
  /// prefix: "model.layers.0."
  Mlp(const ModelConfig& config, std::int64_t layer, const std::string& prefix, const DecoderOptions& options);

  /// x [tokens, hidden] -> [tokens, hidden]. tape may be null.
  at::Tensor forward(const at::Tensor& x, const Sequence& sequence, MlpTape* tape) const;

  /// d_y, x [tokens, hidden] -> d_x. Empties the tape.
  at::Tensor backward(const at::Tensor& d_y, const at::Tensor& x, const Sequence& sequence, MlpTape& tape);

  /// The first module, in forward order, whose output overflows (train/model/overflow.h); tape and y are a forward's.
  std::string first_overflow(const MlpTape& tape, const at::Tensor& y) const;

  std::vector<LinearGroup*> groups();  // in model order
  LinearGroup* gate() { return router_ ? &router_->gate : nullptr; }

 private:
  std::int64_t layer_;
  std::string prefix_;
  std::optional<Router> router_;
  LinearGroup gate_up_, down_;
};

}  // namespace tune
