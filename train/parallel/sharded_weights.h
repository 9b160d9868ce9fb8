#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "train/model/weight_keeper.h"
#include "train/parallel/world.h"

namespace tune {

/// Sharded data parallelism (ZeRO-3, Rajbhandari et al. 2020; FSDP): of each unit's weights, laid end to end, every
/// rank keeps an equal slice, which is all that it reads from the base model. Taking a unit gathers the slices of all
/// ranks into memory that leaving it gives up again. Gradients that are passed on are summed over the ranks, each of
/// which gets its slice: it trains that, and has its masters and optimizer state. Where World knows of several copies,
/// all this is so in each of them, and gradients are summed over the copies when they are finished. All ranks must do
/// the same with the same units in the same order.
class ShardedWeights : public WeightKeeper {
 public:
  explicit ShardedWeights(World& world, bool masters = true) : world_(world), masters_(masters) {}

  bool shares() const override { return true; }

  /// Parameters are called as checkpoints/training/slice_name.h has it.
  std::vector<Parameter> add(const WeightUnit& unit, const WeightSource& source) override;
  void take(std::size_t unit, std::optional<std::size_t> next) override;
  void leave(std::size_t unit) override;
  void take_gradients(std::size_t unit) override;
  void pass_on_gradients(std::size_t unit) override;
  void finish_gradients() override;

 private:
  struct Piece {
    at::Tensor weight, gradient;
    std::vector<std::int64_t> shape;
    std::int64_t first = 0;  // its place in the unit, in elements
  };
  struct Unit {
    std::vector<Piece> pieces;
    at::Tensor slice;  // [elements of the unit / ranks], always here
    at::Tensor whole;  // [elements of the unit] from begin() to leave(), else undefined
    World::Pending pending;
    bool taken = false;
    at::Tensor gradient_slice;  // as slice, fp32: summed over the ranks; undefined where nothing is trained
    at::Tensor gradients;       // as whole, while they are taken or on their way
    World::Pending gradients_pending;
  };
  at::Tensor own(const Unit& unit, const at::Tensor& whole) const;
  void collect_gradients();
  void begin(Unit& unit);

  World& world_;
  const bool masters_;  // false: as DecoderOptions::bf16_stochastic_round has it
  std::vector<Unit> units_;
  std::vector<std::size_t> on_their_way_;  // units whose gradients are being summed
};

}  // namespace tune
