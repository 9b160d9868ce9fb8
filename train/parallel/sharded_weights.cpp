#include "train/parallel/sharded_weights.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <algorithm>
#include <utility>

#include "recipes/schema/error.h"

namespace tune {
namespace {

constexpr std::int64_t kAlignment = 64;  // bytes; what the kernels' vector loads like

std::int64_t rounded_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

std::int64_t sharded_elements(const std::vector<std::int64_t>& sizes, std::int64_t element_bytes, std::int64_t ranks) {
  std::int64_t elements = 0;
  for (const std::int64_t size : sizes) elements += rounded_up(size, kAlignment / element_bytes);
  return rounded_up(elements, kAlignment / element_bytes * ranks);
}

void ShardedWeights::add(const WeightUnit& given, const WeightSource& source) {
  Unit& unit = units_.emplace_back();
  const at::Tensor& any = given.weights.front();
  const std::int64_t step = kAlignment / any.element_size();
  std::vector<std::int64_t> sizes;
  std::int64_t first = 0;
  for (const at::Tensor& weight : given.weights) {
    unit.pieces.push_back({weight, weight.sizes().vec(), first});
    sizes.push_back(weight.numel());
    first += rounded_up(weight.numel(), step);
  }
  const std::int64_t each = sharded_elements(sizes, any.element_size(), world_.rank().count) / world_.rank().count,
                     mine = world_.rank().number * each;
  unit.slice = at::zeros({each}, any.options());
  std::vector<WeightPart> parts;
  for (const WeightSlot& slot : given.slots) {
    const auto piece = std::find_if(unit.pieces.begin(), unit.pieces.end(), [&](const Piece& candidate) {
      return candidate.weight.is_alias_of(slot.destination);
    });
    TUNE_CHECK(piece != unit.pieces.end(), "{} lies in no weight of its unit", slot.name);
    const std::int64_t begin = piece->first + slot.destination.storage_offset(), end = begin + slot.destination.numel(),
                       from = std::max(begin, mine), to = std::min(end, mine + each);
    if (from < to)
      parts.push_back(
          {slot.name, slot.destination.sizes().vec(), from - begin, unit.slice.narrow(0, from - mine, to - from)});
  }
  load_parts(source, parts);
  for (Piece& piece : unit.pieces) piece.weight.set_();
}

void ShardedWeights::begin(Unit& unit) {
  if (unit.whole.defined()) return;
  unit.whole = at::empty({unit.slice.numel() * world_.rank().count}, unit.slice.options());
  unit.pending = world_.begin_gather(unit.whole, unit.slice);
}

void ShardedWeights::take(std::size_t index, std::optional<std::size_t> next) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  Unit& unit = units_[index];
  begin(unit);
  if (!std::exchange(unit.taken, true)) {
    unit.pending.wait();
    unit.pending = {};
    for (Piece& piece : unit.pieces) {
      const at::Tensor view = unit.whole.narrow(0, piece.first, c10::multiply_integers(piece.shape)).view(piece.shape);
      piece.weight.set_(view.storage(), view.storage_offset(), view.sizes(), view.strides());
    }
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

}  // namespace tune
