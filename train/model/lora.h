#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "train/kernels/grouped_matmul.h"
#include "train/model/decoder.h"

namespace tune {

/// Which dropout mask: stateless, so that the backward pass and a resumed run draw the same one. 0 = no dropout.
struct DropoutKey {
  double probability = 0;
  std::uint64_t seed = 0;  // of (seed, step, micro-batch, group)
};

/// Whether a pass uses the adapters. unchanged: as they were in the pass before, so that DoRA needn't measure again.
enum class AdapterUse { off, on, unchanged };

/// One linear layer that has an adapter: its rows [first_row, first_row + rows) of the group's weight.
struct LoraModule {
  std::string name;  // "model.layers.0.self_attn.q_proj"
  std::int64_t first_row = 0, rows = 0;
  std::int64_t rank = 0, first = 0;  // its columns [first, first + rank) of x A^T, among those of its expert
  double scale = 1;
};

/// The adapters of a group of linear layers: y += scale * (x A^T) B^T (Hu et al. 2021). The modules' A lie one below
/// the other; their B are the blocks of one block-diagonal matrix.
///
/// With PiSSA (Meng et al. 2024) they begin at the largest singular vectors A0, B0 of the weight, which stays as it is:
/// y += scale * ((x A^T) B^T - (x A0^T) B0^T). A0 and -B0 stand behind the trained factors, in the same matrices.
class LoraGroup {
 public:
  LoraGroup() = default;

  /// Fresh adapters: A uniform in +-1/sqrt(in), B zero. Modules expert by expert, the same ones of each, with name and
  /// rows filled in; `rows`: of the group's weight.
  LoraGroup(std::vector<LoraModule> modules, std::int64_t in_features, std::int64_t rows, std::int64_t experts,
            const DecoderOptions& options);

  bool empty() const { return modules_.empty(); }
  const std::vector<LoraModule>& modules() const { return modules_; }

  /// PiSSA: where the i-th module begins. a [rank, in], b [rows, rank] fp32.
  void start_at(std::size_t i, const at::Tensor& a, const at::Tensor& b);

  /// Adds to y and returns x A^T, which backward() needs.
  at::Tensor add_to_(at::Tensor& y, const at::Tensor& x, const DropoutKey& dropout, const RowGroups& groups) const;
  void add_projected_to_(at::Tensor& y, const at::Tensor& down, const RowGroups& groups) const;

  /// Adds to the gradients of what is trained, and to d_x where it is defined. down: what add_to_() returned.
  void backward(const at::Tensor& d_y, const at::Tensor& x, const at::Tensor& down, at::Tensor& d_x,
                const DropoutKey& dropout, const RowGroups& groups);

  void append_parameters(std::size_t i, std::vector<Parameter>& parameters) const;

  /// All A, one below the other, and the i-th module's B [rows, rank], as they multiply.
  const at::Tensor& a() const { return lora_a_; }
  at::Tensor b(std::size_t i) const { return value_b(i, 0); }

 private:
  at::Tensor value_a(std::size_t i, std::int64_t first) const;
  at::Tensor value_b(std::size_t i, std::int64_t first) const;
  at::Tensor master_a(std::size_t i) const;
  at::Tensor rows_of_a(std::int64_t first, std::int64_t count) const;
  at::Tensor dropped(const at::Tensor& x, std::int64_t module, const DropoutKey& dropout) const;
  std::int64_t expert_of(std::size_t i) const { return static_cast<std::int64_t>(i) / each_; }

  std::vector<LoraModule> modules_;
  std::int64_t experts_ = 1, each_ = 0, in_ = 0;  // each_: modules of an expert
  std::int64_t trained_ = 0, width_ = 0;          // columns of x A^T: width_ - trained_ of them are frozen
  double scale_ = 1, b_rate_scale_ = 1;
  at::Tensor column_scale_;                     // [width] fp32, where modules are scaled otherwise than by scale_
  at::Tensor lora_a_, lora_b_;                  // [experts * width, in], [rows, width]; compute dtype
  at::Tensor lora_a_master_, lora_a_gradient_;  // fp32; master: lora_a_ itself, or [experts * trained, in]
  std::vector<at::Tensor> lora_b_master_, lora_b_gradient_;  // [module rows, rank] fp32 each
};

}  // namespace tune
