#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "train/kernels/grouped_matmul.h"

namespace tune {

class LinearGroup;

/// How large the inputs of the linear layers are, column by column, summed over everything that a decoder computes
/// while it collects: what an importance matrix is made of.
class InputStatistics {
 public:
  struct Columns {
    std::vector<float> squares;  // [in]: sums over the tokens
    std::int64_t tokens = 0;     // of an expert: those that chose it
  };

  /// x [rows, in]: what `group` is given.
  void add(const LinearGroup& group, const at::Tensor& x, const RowGroups& groups);

  /// By the names of the modules ("model.layers.0.self_attn.q_proj").
  std::map<std::string, Columns> by_module() const;

 private:
  struct Sums {
    at::Tensor squares;                // [experts, in] fp64 on the CPU
    std::vector<std::int64_t> tokens;  // [experts]
  };
  std::map<const LinearGroup*, Sums> sums_;
};

}  // namespace tune
