#include "train/model/unit_gradients.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <algorithm>

#include "recipes/schema/error.h"
#include "train/model/dtype.h"

namespace tune {

std::vector<Parameter> UnitGradients::add(const WeightUnit& unit, const WeightSource& source) {
  load_weights(source, unit.slots);
  std::vector<Piece>& pieces = units_.emplace_back();
  for (std::size_t i = 0; i < unit.weights.size(); ++i)
    if (unit.gradients[i].defined()) pieces.push_back({unit.weights[i], unit.gradients[i], {}});
  std::vector<Parameter> parameters;
  for (const WeightSlot& slot : unit.slots) {
    const at::Tensor& value = slot.destination;
    const auto piece = std::ranges::find_if(pieces, [&](const Piece& p) { return p.weight.is_alias_of(value); });
    if (piece == pieces.end()) continue;  // frozen
    const at::Tensor gradient = at::empty({0}, piece->gradient.options());
    piece->parts.push_back({value, gradient});
    parameters.push_back({.name = slot.name,
                          .value = value,
                          .master = make_master(value, options_),
                          .gradient = gradient,
                          .decays = value.dim() > 1});
  }
  return parameters;
}

void UnitGradients::take_gradients(std::size_t unit) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  for (Piece& piece : units_[unit]) {
    TUNE_CHECK(piece.gradient.numel() == 0, "the gradients of unit {} were taken before", unit);
    const at::Storage memory = at::zeros(piece.weight.sizes(), piece.gradient.options()).storage();
    const auto point = [&](at::Tensor& gradient, const at::Tensor& like) {
      gradient.set_(memory, like.storage_offset() - piece.weight.storage_offset(), like.sizes(), like.strides());
    };
    point(piece.gradient, piece.weight);
    for (Part& part : piece.parts) point(part.gradient, part.value);
  }
}

void UnitGradients::pass_on_gradients(std::size_t unit) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  for (Piece& piece : units_[unit]) {
    piece.gradient.set_();
    for (Part& part : piece.parts) part.gradient.set_();
  }
}

}  // namespace tune
