#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "train/kernels/grouped_matmul.h"
#include "train/kernels/nf4.h"
#include "train/model/decoder.h"
#include "train/model/load.h"

namespace tune {

/// One linear layer of a group: its rows [first_row, first_row + rows) of the group's weight.
struct LinearModule {
  std::string name;  // "model.layers.0.self_attn.q_proj"
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
  std::int64_t adapter = -1;  // its place among the group's adapted modules, -1 = none
};

/// Which dropout mask: stateless, so that the backward pass and a resumed run draw the same one. 0 = no dropout.
struct DropoutKey {
  double probability = 0;
  std::uint64_t seed = 0;  // of (seed, step, micro-batch, group)
};

/// Linear layers that read the same input, as one product: y = x W^T + scale * (x A^T) B^T with the modules' weights
/// one below the other. The adapters' A lie one below the other too; their B are the blocks of one block-diagonal
/// matrix. (Hu et al. 2021. Four products a group, whatever the number of modules.)
///
/// A frozen weight may be kept in NF4 (QLoRA): it computes as its dequantised values would.
///
/// Experts: the same modules once for each expert, expert by expert; `groups` says which rows of x go to which. Without
/// experts it stays empty.
class LinearGroup {
 public:
  LinearGroup() = default;

  /// names and rows of the modules, in order. Storage is allocated, its contents are the caller's business. The weight
  /// is kept in NF4 with adapters of type qlora, unless quantizable is false.
  LinearGroup(std::vector<LinearModule> modules, std::int64_t in_features, const DecoderOptions& options,
              std::int64_t experts = 1, bool quantizable = true);

  /// Where the modules' weights are to be read to.
  void append_slots(std::vector<WeightSlot>& slots);

  /// Puts a fresh adapter (A uniform in +-1/sqrt(in), B zero) on the named modules ("q_proj", ...).
  void add_adapter(const std::vector<std::string>& targets, const DecoderOptions& options);

  /// Full fine-tuning: allocates masters and gradients; `kept`: only the gradients' handle, whose memory a WeightKeeper
  /// has.
  void train_weights(const DecoderOptions& options, bool kept);

  /// x [tokens, in] -> [tokens, rows of an expert]. Into `down` goes x A^T, which the backward needs (undefined without
  /// adapter).
  at::Tensor forward(const at::Tensor& x, at::Tensor* down, bool adapter_on, const DropoutKey& dropout,
                     const RowGroups& groups = {}) const;

  /// Adds to the gradients of what is trained. Returns d_x, undefined unless want_d_x.
  at::Tensor backward(const at::Tensor& d_y, const at::Tensor& x, const at::Tensor& down, bool want_d_x,
                      const DropoutKey& dropout, const RowGroups& groups = {});

  void append_parameters(std::vector<Parameter>& parameters);

  /// The first module that computed an overflow (train/model/overflow.h) in `values`, what forward() gave; "" for none.
  std::string first_overflow(const at::Tensor& values, const RowGroups& groups = {}) const;

  const std::vector<LinearModule>& modules() const { return modules_; }
  bool is_quantized() const { return nf4_.bytes.defined(); }
  at::Tensor& weight() { return is_quantized() ? nf4_.bytes : weight_; }  // [rows, in], or bytes of Nf4Matrices
  const at::Tensor& weight_gradient() const { return weight_gradient_; }

 private:
  at::Tensor dropped(const at::Tensor& x, std::int64_t adapter, const DropoutKey& dropout) const;
  at::Tensor factor_a(std::int64_t adapter) const;

  std::vector<LinearModule> modules_;
  std::int64_t experts_ = 1;
  std::int64_t rows_ = 0, in_ = 0;
  at::Tensor weight_;                           // [rows, in]; undefined where it is in NF4
  Nf4Matrices nf4_;                             // a matrix a module
  at::Tensor weight_master_, weight_gradient_;  // fp32, full fine-tuning only
  std::int64_t adapted_ = 0, rank_ = 0;         // adapted modules of an expert
  double scale_ = 1, b_rate_scale_ = 1;
  at::Tensor lora_a_, lora_b_;                  // [experts * adapted * r, in], [rows, adapted * r]; compute dtype
  at::Tensor lora_a_master_, lora_a_gradient_;  // fp32
  std::vector<at::Tensor> lora_b_master_, lora_b_gradient_;  // [module rows, r] fp32 each
};

}  // namespace tune
