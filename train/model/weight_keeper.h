#pragma once
#include <ATen/core/Tensor.h>

#include <cstddef>
#include <optional>
#include <vector>

#include "checkpoints/weights.h"
#include "train/model/decoder.h"
#include "train/model/load.h"

namespace tune {

/// Weights that are needed at the same time: those of a layer, or those before or behind the layers.
struct WeightUnit {
  std::vector<at::Tensor> weights;    // of one dtype (uint8: in NF4) and device, contiguous, not filled
  std::vector<at::Tensor> gradients;  // one a weight: fp32 and without memory where it is trained, else undefined
  std::vector<WeightSlot> slots;      // what is read into them
};

/// Where a decoder's weights, or their gradients, are when they are not all here. Units are numbered in the order of
/// add(). A decoder takes and leaves units in an order that depends on its model alone.
class WeightKeeper {
 public:
  virtual ~WeightKeeper() = default;

  /// Whether other ranks have parts of the weights, of which add() returns slices then.
  virtual bool shares() const = 0;

  /// From here on the unit's tensors need have no memory of their own. Returns what of them this process trains.
  /// Error{Fault::data} as load_weights().
  virtual std::vector<Parameter> add(const WeightUnit& unit, const WeightSource& source) = 0;

  /// Afterwards the unit's tensors can be read. Nothing where they could already. `next` is what will be taken after
  /// it: it may begin to come.
  virtual void take(std::size_t unit, std::optional<std::size_t> next) = 0;
  virtual void leave(std::size_t unit) = 0;

  /// Afterwards the unit's gradients are there, all zero, until they are passed on, which adds them to what add()
  /// returned: by the time of finish_gradients() at the latest. Nothing for units without gradients.
  virtual void take_gradients(std::size_t unit) = 0;
  virtual void pass_on_gradients(std::size_t unit) = 0;
  virtual void finish_gradients() = 0;
};

}  // namespace tune
