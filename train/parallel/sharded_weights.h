#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "train/model/weight_keeper.h"
#include "train/parallel/world.h"

namespace tune {

/// Sharded data parallelism (ZeRO-3, Rajbhandari et al. 2020; FSDP): of each unit's weights, laid end to end, every
/// rank keeps an equal slice, which is all that it reads from the base model. Taking a unit gathers the slices of all
/// ranks into memory that leaving it gives up again. All ranks must take and leave the same units in the same order.
class ShardedWeights : public WeightKeeper {
 public:
  explicit ShardedWeights(World& world) : world_(world) {}

  void add(const WeightUnit& unit, const WeightSource& source) override;
  void take(std::size_t unit, std::optional<std::size_t> next) override;
  void leave(std::size_t unit) override;

 private:
  struct Piece {
    at::Tensor weight;
    std::vector<std::int64_t> shape;
    std::int64_t first = 0;  // its place in the unit, in elements
  };
  struct Unit {
    std::vector<Piece> pieces;
    at::Tensor slice;  // [elements of the unit / ranks], always here
    at::Tensor whole;  // [elements of the unit] from begin() to leave(), else undefined
    World::Pending pending;
    bool taken = false;
  };
  void begin(Unit& unit);

  World& world_;
  std::vector<Unit> units_;
};

/// Elements that a rank keeps, and that all of them gather, of a unit with tensors of these sizes: each begins at a
/// multiple of 64 bytes, the last slice may be padded.
std::int64_t sharded_elements(const std::vector<std::int64_t>& sizes, std::int64_t element_bytes, std::int64_t ranks);

}  // namespace tune
