#include "train/parallel/sharded_weights.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <algorithm>
#include <utility>

#include "checkpoints/training/slice_name.h"
#include "recipes/schema/error.h"

namespace tune {
namespace {

constexpr std::int64_t kAlignment = 256;  // elements: what the kernels' vector loads like, and moments in 8 bits take

std::int64_t rounded_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Makes of `tensor`, and of every copy of its handle, a view of so many elements of `memory`.
void point(at::Tensor& tensor, const at::Tensor& memory, std::int64_t first, const std::vector<std::int64_t>& shape) {
  const at::Tensor view = memory.narrow(0, first, c10::multiply_integers(shape)).view(shape);
  tensor.set_(view.storage(), view.storage_offset(), view.sizes(), view.strides());
}

}  // namespace

std::vector<Parameter> ShardedWeights::add(const WeightUnit& given, const WeightSource& source) {
  Unit& unit = units_.emplace_back();
  const at::Tensor& any = given.weights.front();
  std::int64_t first = 0;
  for (std::size_t i = 0; i < given.weights.size(); ++i) {
    const at::Tensor& weight = given.weights[i];
    unit.pieces.push_back(
        {weight, i < given.gradients.size() ? given.gradients[i] : at::Tensor(), weight.sizes().vec(), first});
    first += rounded_up(weight.numel(), kAlignment);
  }
  const std::int64_t ranks = world_.shard_count(), each = rounded_up(first, kAlignment * ranks) / ranks,
                     mine = world_.shard_number() * each;
  unit.slice = at::zeros({each}, any.options());
  struct Trained {
    std::string name;
    std::int64_t at = 0, count = 0;  // in the slice
    bool decays = true;
  };
  struct Share {  // of a weight: what of it lies in the slice
    std::int64_t skipped = 0, at = 0, count = 0;
  };
  std::vector<WeightPart> parts;
  std::vector<Trained> trained;
  for (const WeightSlot& slot : given.slots) {
    const auto piece = std::find_if(unit.pieces.begin(), unit.pieces.end(), [&](const Piece& candidate) {
      return candidate.weight.is_alias_of(slot.destination);
    });
    TUNE_CHECK(piece != unit.pieces.end(), "{} lies in no weight of its unit", slot.name);
    const auto share_of = [&](const at::Tensor& part) {
      const std::int64_t begin = piece->first + part.storage_offset(), from = std::max(begin, mine);
      return Share{from - begin, from - mine, std::min(begin + part.numel(), mine + each) - from};
    };
    const Share share = share_of(slot.destination);
    if (!slot.quantized_shape.empty()) {  // scales know of all values: no slice can be quantised on its own
      const Share scales = slot.fp8_scales.defined() ? share_of(slot.fp8_scales) : Share{};
      if (share.count <= 0 && scales.count <= 0) continue;
      const QuantizedBytes bytes = load_quantized(source, slot);
      for (const auto& [part, all] : {std::pair(share, bytes.values), std::pair(scales, bytes.fp8_scales)})
        if (part.count > 0) unit.slice.narrow(0, part.at, part.count).copy_(all.narrow(0, part.skipped, part.count));
      continue;
    }
    if (share.count <= 0) continue;
    parts.push_back(
        {slot.name, slot.destination.sizes().vec(), share.skipped, unit.slice.narrow(0, share.at, share.count)});
    if (piece->gradient.defined())
      trained.push_back({slice_name(slot.name, share.skipped), share.at, share.count, slot.destination.dim() > 1});
  }
  load_parts(source, parts);
  for (Piece& piece : unit.pieces) piece.weight.set_();

  const bool any_trained =
      std::any_of(unit.pieces.begin(), unit.pieces.end(), [](const Piece& piece) { return piece.gradient.defined(); });
  if (!any_trained) return {};
  const at::Tensor master = masters_ ? unit.slice.to(at::kFloat) : unit.slice;
  unit.gradient_slice = at::zeros(unit.slice.sizes(), unit.slice.options().dtype(at::kFloat));
  std::vector<Parameter> parameters;
  for (const Trained& part : trained) {
    const at::Tensor value = unit.slice.narrow(0, part.at, part.count);
    parameters.push_back({.name = part.name,
                          .value = value,
                          .master = master.is_same(unit.slice) ? value : master.narrow(0, part.at, part.count),
                          .gradient = unit.gradient_slice.narrow(0, part.at, part.count),
                          .decays = part.decays});
  }
  return parameters;
}

at::Tensor ShardedWeights::own(const Unit& unit, const at::Tensor& whole) const {
  return whole.narrow(0, world_.shard_number() * unit.slice.numel(), unit.slice.numel());
}

void ShardedWeights::begin(Unit& unit) {
  if (unit.whole.defined()) return;
  unit.whole = at::empty({unit.slice.numel() * world_.shard_count()}, unit.slice.options());
  unit.pending = world_.begin_gather(unit.whole, unit.slice);
}

void ShardedWeights::take(std::size_t index, std::optional<std::size_t> next) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  Unit& unit = units_[index];
  begin(unit);
  if (!std::exchange(unit.taken, true)) {
    unit.pending.wait();
    unit.pending = {};
    for (Piece& piece : unit.pieces) point(piece.weight, unit.whole, piece.first, piece.shape);
  }
  // Before this unit's kernels are launched: on a GPU a collective waits for what was launched before it.
  if (next) begin(units_[*next]);
}

void ShardedWeights::leave(std::size_t index) {
  Unit& unit = units_[index];
  TUNE_CHECK(unit.taken, "unit {} was not taken", index);
  for (Piece& piece : unit.pieces) piece.weight.set_();
  unit.whole = at::Tensor();
  unit.taken = false;
}

void ShardedWeights::take_gradients(std::size_t index) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  Unit& unit = units_[index];
  if (!unit.gradient_slice.defined()) return;
  if (std::ranges::find(on_their_way_, index) != on_their_way_.end()) collect_gradients();  // of the last micro-batch
  TUNE_CHECK(!unit.gradients.defined(), "the gradients of unit {} were taken before", index);
  unit.gradients = at::zeros({unit.slice.numel() * world_.shard_count()}, unit.gradient_slice.options());
  for (Piece& piece : unit.pieces)
    if (piece.gradient.defined()) point(piece.gradient, unit.gradients, piece.first, piece.shape);
}

// One unit's gradients are on their way at a time: while the next unit's are computed.
void ShardedWeights::pass_on_gradients(std::size_t index) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  Unit& unit = units_[index];
  if (!unit.gradient_slice.defined()) return;
  collect_gradients();
  for (Piece& piece : unit.pieces)
    if (piece.gradient.defined()) piece.gradient.set_();
  unit.gradients_pending = world_.begin_sum_of_slices(unit.gradients);
  on_their_way_.push_back(index);
}

void ShardedWeights::collect_gradients() {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  for (const std::size_t index : on_their_way_) {
    Unit& unit = units_[index];
    unit.gradients_pending.wait();
    unit.gradients_pending = {};
    unit.gradient_slice.add_(own(unit, unit.gradients));
    unit.gradients = at::Tensor();
  }
  on_their_way_.clear();
}

void ShardedWeights::finish_gradients() {
  collect_gradients();
  std::vector<World::Pending> sums;
  for (const Unit& unit : units_)
    if (unit.gradient_slice.defined()) sums.push_back(world_.begin_sum_over_copies(unit.gradient_slice));
  for (World::Pending& sum : sums) sum.wait();
}

}  // namespace tune
