#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "train/kernels/fp8.h"
#include "train/kernels/grouped_matmul.h"
#include "train/kernels/nf4.h"
#include "train/model/decoder.h"
#include "train/model/dora.h"
#include "train/model/load.h"
#include "train/model/lora.h"

namespace tune {

/// One linear layer of a group: its rows [first_row, first_row + rows) of the group's weight.
struct LinearModule {
  std::string name;  // "model.layers.0.self_attn.q_proj"
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
  std::int64_t adapter = -1;  // its place in the group's LoraGroup, -1 = none
};

/// Linear layers that read the same input, as one product: y = x W^T with the modules' weights one below the other, and
/// their adapters' part (train/model/lora.h, dora.h). Four products a group, whatever the number of modules.
///
/// A frozen weight may be kept in NF4 (QLoRA), and computes as its dequantised values would, or in fp8, and computes in
/// it.
///
/// Experts: the same modules once for each expert, expert by expert; `groups` says which rows of x go to which. Without
/// experts it stays empty.
class LinearGroup {
 public:
  LinearGroup() = default;

  /// names and rows of the modules, in order. Storage is allocated, its contents are the caller's business. The weight
  /// is kept in NF4 with adapters of type qlora, in fp8 with fp8_base, unless quantizable is false.
  LinearGroup(std::vector<LinearModule> modules, std::int64_t in_features, const DecoderOptions& options,
              std::int64_t experts = 1, bool quantizable = true);

  /// Where the modules' weights are to be read to.
  void append_slots(std::vector<WeightSlot>& slots);

  /// Puts a fresh adapter on the named modules ("q_proj", ...).
  void add_adapter(const std::vector<std::string>& targets, const DecoderOptions& options);

  /// What an adapter takes from the weights, once these can be read: DoRA the rows' lengths, PiSSA its factors.
  void start_adapter(const DecoderOptions& options);

  /// Full fine-tuning: allocates masters and gradients; `kept`: only the gradients' handle, whose memory a WeightKeeper
  /// has.
  void train_weights(const DecoderOptions& options, bool kept);

  /// x [tokens, in] -> [tokens, rows of an expert]. Into `down` goes x A^T, which the backward needs (undefined without
  /// adapter).
  at::Tensor forward(const at::Tensor& x, at::Tensor* down, AdapterUse adapter, const DropoutKey& dropout,
                     const RowGroups& groups = {}) const;

  /// Adds to the gradients of what is trained. Returns d_x, undefined unless want_d_x.
  at::Tensor backward(const at::Tensor& d_y, const at::Tensor& x, const at::Tensor& down, bool want_d_x,
                      const DropoutKey& dropout, const RowGroups& groups = {});

  void append_parameters(std::vector<Parameter>& parameters);

  /// The first module that computed an overflow (train/model/overflow.h) in `values`, what forward() gave; "" for none.
  std::string first_overflow(const at::Tensor& values, const RowGroups& groups = {}) const;

  const std::vector<LinearModule>& modules() const { return modules_; }
  bool is_in_nf4() const { return nf4_.bytes.defined(); }
  bool is_in_fp8() const { return fp8_.bytes.defined(); }
  /// [rows, in], or the bytes of what it is quantised to.
  at::Tensor& weight() { return is_in_nf4() ? nf4_.bytes : is_in_fp8() ? fp8_.bytes : weight_; }
  const at::Tensor& weight_gradient() const { return weight_gradient_; }

 private:
  at::Tensor product(const at::Tensor& x, const RowGroups& groups) const;
  at::Tensor product_backwards(const at::Tensor& d_y, const RowGroups& groups) const;
  at::Tensor rows_in_fp32(std::int64_t first, std::int64_t count) const;

  std::vector<LinearModule> modules_;
  std::int64_t experts_ = 1;
  std::int64_t rows_ = 0, in_ = 0;
  at::Tensor weight_;                           // [rows, in]; undefined where it is quantised
  Nf4Matrices nf4_;                             // a matrix a module
  Fp8Matrix fp8_;                               // of all modules
  at::Tensor weight_master_, weight_gradient_;  // fp32, full fine-tuning only
  LoraGroup lora_;
  mutable Dora dora_;  // a pass measures the lengths that it and its backward pass use
};

}  // namespace tune
