#pragma once
#include <ATen/core/Tensor.h>

#include <cstddef>
#include <optional>
#include <vector>

#include "checkpoints/weights.h"
#include "train/model/load.h"

namespace tune {

/// Weights that are needed at the same time: those of a layer, or those before or behind the layers.
struct WeightUnit {
  std::vector<at::Tensor> weights;  // of one dtype and device, contiguous, not filled
  std::vector<WeightSlot> slots;    // what is read into them
};

/// Where a decoder's frozen weights are when they are not all here. Units are numbered in the order of add(). A decoder
/// takes and leaves units in an order that depends on its model alone.
class WeightKeeper {
 public:
  virtual ~WeightKeeper() = default;

  /// From here on the unit's tensors have no memory of their own. Error{Fault::data} as load_weights().
  virtual void add(const WeightUnit& unit, const WeightSource& source) = 0;

  /// Afterwards the unit's tensors can be read. Nothing where they could already. `next` is what will be taken after
  /// it: it may begin to come.
  virtual void take(std::size_t unit, std::optional<std::size_t> next) = 0;
  virtual void leave(std::size_t unit) = 0;
};

}  // namespace tune
