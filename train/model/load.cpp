#include "train/model/load.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <set>
#include <string>

#include "checkpoints/peft/adapter_folder.h"
#include "recipes/schema/error.h"
#include "train/model/dtype.h"

namespace tune {
namespace {

Dtype dtype_of(const at::Tensor& tensor) {
  if (tensor.scalar_type() == at::kFloat) return Dtype::fp32;
  return tensor.scalar_type() == at::kBFloat16 ? Dtype::bf16 : Dtype::fp16;
}

// NaN and infinity are the values whose exponent bits are all set. One pass without branches, so it vectorises.
template <typename Word>
bool all_finite(const void* data, std::int64_t count, Word exponent) {
  const Word* words = static_cast<const Word*>(data);
  bool bad = false;
  for (std::int64_t i = 0; i < count; ++i) bad |= (words[i] & exponent) == exponent;
  return !bad;
}

bool all_finite(const at::Tensor& t) {
  switch (t.scalar_type()) {
    case at::kFloat:
      return all_finite<std::uint32_t>(t.const_data_ptr(), t.numel(), 0x7F800000u);
    case at::kBFloat16:
      return all_finite<std::uint16_t>(t.const_data_ptr(), t.numel(), 0x7F80u);
    default:
      return all_finite<std::uint16_t>(t.const_data_ptr(), t.numel(), 0x7C00u);
  }
}

void load_one(const WeightSource& weights, const WeightSlot& slot) {
  at::Tensor host = slot.destination.is_cpu() ? slot.destination
                                              : at::empty(slot.destination.sizes(), slot.destination.scalar_type());
  weights.read(slot.name, dtype_of(host), {static_cast<std::byte*>(host.mutable_data_ptr()), host.nbytes()});
  if (!all_finite(host))
    throw Error{
        Fault::data,
        {},
        fmt::format("tensor {} of the base model holds NaN or infinity", slot.name),
        "the file is damaged, or its numbers do not fit the dtype: try train.precision: bf16 or fetch it again"};
  if (!slot.destination.is_cpu()) slot.destination.copy_(host);
}

}  // namespace

void load_weights(const WeightSource& weights, const std::vector<WeightSlot>& slots) {
  at::parallel_for(0, static_cast<std::int64_t>(slots.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) load_one(weights, slots[static_cast<std::size_t>(i)]);
  });
}

void load_adapter(const AdapterOptions& options, std::vector<Parameter>& parameters) {
  const AdapterFolder adapter(options.init_adapter);
  const Place place{options.init_adapter};
  if (adapter.config().r != options.lora_r)
    throw Error{Fault::data, place,
                fmt::format("the adapter's rank is {}, the recipe says {}", adapter.config().r, options.lora_r),
                fmt::format("set adapter.lora_r: {}", adapter.config().r)};
  const double rank = static_cast<double>(options.lora_r), wanted = options.lora_alpha / rank;
  if (std::abs(adapter.config().scale() - wanted) > 1e-9 * wanted)
    throw Error{Fault::data, place,
                fmt::format("the adapter is scaled by {}, the recipe's lora_alpha / lora_r is {}",
                            adapter.config().scale(), wanted),
                fmt::format("set adapter.lora_alpha: {}", adapter.config().scale() * rank)};
  std::vector<std::string> mistakes;
  std::set<std::string> expected;
  for (const Parameter& parameter : parameters) {
    expected.insert(parameter.name);
    const TensorInfo* stored = adapter.find(parameter.name);
    if (stored == nullptr)
      mistakes.push_back(fmt::format("{} is missing", parameter.name));
    else if (at::IntArrayRef(stored->shape) != parameter.master.sizes())
      mistakes.push_back(fmt::format("{} is [{}], the model wants [{}]", parameter.name, fmt::join(stored->shape, ", "),
                                     fmt::join(parameter.master.sizes().vec(), ", ")));
  }
  for (const TensorInfo& stored : adapter.tensors())
    if (expected.count(stored.name) == 0) mistakes.push_back(fmt::format("{} is not trained here", stored.name));
  if (!mistakes.empty())
    throw Error{Fault::data, place, fmt::format("the adapter does not fit: {}", fmt::join(mistakes, "; ")),
                "give adapter.lora_target_modules and model.base_model of the run that made it"};
  for (Parameter& parameter : parameters) {
    at::Tensor host = at::empty(parameter.master.sizes(), at::kFloat);
    adapter.read(parameter.name, Dtype::fp32, {static_cast<std::byte*>(host.mutable_data_ptr()), host.nbytes()});
    if (!all_finite(host))
      throw Error{Fault::data, place, fmt::format("tensor {} holds NaN or infinity", parameter.name),
                  "take an earlier checkpoint of the run that made it"};
    parameter.master.copy_(host);
    if (!parameter.value.is_same(parameter.master)) parameter.value.copy_(parameter.master);
  }
}

}  // namespace tune
