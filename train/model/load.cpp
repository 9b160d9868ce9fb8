#include "train/model/load.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <string>

#include "checkpoints/peft/adapter_folder.h"
#include "checkpoints/quantize/nf4.h"
#include "checkpoints/quantize/nf4_weights.h"
#include "recipes/schema/error.h"
#include "recipes/schema/lora_shape.h"
#include "train/kernels/fp8.h"
#include "train/model/dtype.h"

namespace tune {
namespace {

Dtype dtype_of(const at::Tensor& tensor) {
  if (tensor.scalar_type() == at::kFloat) return Dtype::fp32;
  return tensor.scalar_type() == at::kBFloat16 ? Dtype::bf16 : Dtype::fp16;
}

constexpr std::uint32_t kExponent = 0x7F800000u;  // of fp32

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
      return all_finite<std::uint32_t>(t.const_data_ptr(), t.numel(), kExponent);
    case at::kBFloat16:
      return all_finite<std::uint16_t>(t.const_data_ptr(), t.numel(), 0x7F80u);
    default:
      return all_finite<std::uint16_t>(t.const_data_ptr(), t.numel(), 0x7C00u);
  }
}

// Rows that belong to the part as a whole are read into place, others through `row`.
void read_part(const WeightSource& weights, const WeightPart& part, const at::Tensor& host) {
  const std::int64_t columns = c10::multiply_integers(part.shape) / part.shape.front(), end = part.first + host.numel();
  const std::size_t element = host.element_size();
  auto* out = static_cast<std::byte*>(host.mutable_data_ptr());
  std::vector<std::byte> row(static_cast<std::size_t>(columns) * element);
  for (std::int64_t at = part.first, count = 0; at < end; at += count) {
    const std::int64_t skipped = at % columns;
    std::byte* const here = out + static_cast<std::size_t>(at - part.first) * element;
    if (skipped == 0 && end - at >= columns) {
      count = (end - at) / columns * columns;
      weights.read_rows(part.name, at / columns, count / columns, dtype_of(host),
                        {here, static_cast<std::size_t>(count) * element});
    } else {
      count = std::min(columns - skipped, end - at);
      weights.read_rows(part.name, at / columns, 1, dtype_of(host), row);
      std::memcpy(here, row.data() + static_cast<std::size_t>(skipped) * element,
                  static_cast<std::size_t>(count) * element);
    }
  }
}

[[noreturn]] void refuse_non_finite(const std::string& name) {
  throw Error{Fault::data,
              {},
              fmt::format("tensor {} of the base model holds NaN or infinity", name),
              "the file is damaged, or its numbers do not fit the dtype: try train.precision: bf16 or fetch it again"};
}

void load_part(const WeightSource& weights, const WeightPart& part) {
  const at::Tensor host = part.destination.is_cpu()
                              ? part.destination
                              : at::empty(part.destination.sizes(), part.destination.scalar_type());
  read_part(weights, part, host);
  if (!all_finite(host)) refuse_non_finite(part.name);
  if (!part.destination.is_cpu()) part.destination.copy_(host);
}

void refuse_non_finite(const std::string& name, std::span<const float> values) {
  if (!all_finite<std::uint32_t>(values.data(), std::ssize(values), kExponent)) refuse_non_finite(name);
}

QuantizedBytes load_nf4(const WeightSource& weights, const WeightSlot& slot) {
  at::Tensor bytes = at::empty(slot.destination.sizes(), at::kByte);
  quantize_while_reading(weights, slot.name, slot.quantized_shape[0], slot.quantized_shape[1],
                         {static_cast<std::byte*>(bytes.mutable_data_ptr()), bytes.nbytes()},
                         [&](std::span<const float> values) { refuse_non_finite(slot.name, values); });
  return {bytes, {}};
}

QuantizedBytes load_fp8(const WeightSource& weights, const WeightSlot& slot) {
  constexpr std::int64_t kValuesAtATime = 1 << 20;
  const std::int64_t rows = slot.quantized_shape[0], columns = slot.quantized_shape[1],
                     step = std::max<std::int64_t>(1, kValuesAtATime / columns);
  const at::Tensor values = at::empty({rows, columns}, at::kFloat8_e4m3fn), scales = at::empty({rows, 1}, at::kFloat),
                   exact = at::empty({std::min(step, rows), columns}, at::kFloat);
  for (std::int64_t first = 0; first < rows; first += step) {
    const std::int64_t count = std::min(step, rows - first);
    const std::span<float> some(exact.mutable_data_ptr<float>(), static_cast<std::size_t>(count * columns));
    weights.read_rows(slot.name, first, count, Dtype::fp32, std::as_writable_bytes(some));
    refuse_non_finite(slot.name, some);
    const Fp8Rows quantized = fp8_quantize(exact.narrow(0, 0, count));
    values.narrow(0, first, count).copy_(quantized.values);
    scales.narrow(0, first, count).copy_(quantized.scales);
  }
  return {values.view(at::kByte).view({-1}), scales.view(at::kByte).view({-1})};
}

// An adapter that goes on is scaled as before.
void check_scale(const std::string& parameter, const AdapterConfig& config, const AdapterOptions& options,
                 const Place& place) {
  constexpr std::string_view kPrefix = "base_model.model.", kFactor = ".lora_A.weight";
  if (!parameter.ends_with(kFactor)) return;
  const std::string module = parameter.substr(kPrefix.size(), parameter.size() - kPrefix.size() - kFactor.size());
  const double is = config.scale_of(module), wanted = scale_of(options, module);
  if (std::abs(is - wanted) <= 1e-9 * wanted) return;
  const double alpha = value_for(config.alpha_pattern, module, config.lora_alpha);
  throw Error{Fault::data, place,
              fmt::format("the adapter of {} is scaled by {}, the recipe's is scaled by {}", module, is, wanted),
              config.alpha_pattern.empty() && options.alpha_pattern.empty()
                  ? fmt::format("set adapter.lora_alpha: {} (and adapter.use_rslora: {})", alpha, config.use_rslora)
                  : fmt::format("set its alpha to {} in adapter.alpha_pattern", alpha)};
}

}  // namespace

void load_parts(const WeightSource& weights, const std::vector<WeightPart>& parts) {
  at::parallel_for(0, static_cast<std::int64_t>(parts.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) load_part(weights, parts[static_cast<std::size_t>(i)]);
  });
}

QuantizedBytes load_quantized(const WeightSource& weights, const WeightSlot& slot) {
  return slot.fp8_scales.defined() ? load_fp8(weights, slot) : load_nf4(weights, slot);
}

void load_weights(const WeightSource& weights, const std::vector<WeightSlot>& slots) {
  at::parallel_for(0, static_cast<std::int64_t>(slots.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const WeightSlot& slot = slots[static_cast<std::size_t>(i)];
      if (slot.quantized_shape.empty()) {
        load_part(weights, {slot.name, slot.destination.sizes().vec(), 0, slot.destination});
        continue;
      }
      const QuantizedBytes bytes = load_quantized(weights, slot);
      slot.destination.copy_(bytes.values);
      if (slot.fp8_scales.defined()) slot.fp8_scales.copy_(bytes.fp8_scales);
    }
  });
}

void load_adapter(const AdapterOptions& options, std::vector<Parameter>& parameters) {
  const AdapterFolder adapter(options.init_adapter);
  const Place place{options.init_adapter};
  if (adapter.config().r != options.lora_r)
    throw Error{Fault::data, place,
                fmt::format("the adapter's rank is {}, the recipe says {}", adapter.config().r, options.lora_r),
                fmt::format("set adapter.lora_r: {}", adapter.config().r)};
  if (adapter.config().use_dora != options.use_dora)
    throw Error{Fault::data, place,
                fmt::format("this is {} adapter, the recipe says {}", adapter.config().use_dora ? "a DoRA" : "no DoRA",
                            options.use_dora),
                fmt::format("set adapter.use_dora: {}", adapter.config().use_dora)};
  for (const Parameter& parameter : parameters) check_scale(parameter.name, adapter.config(), options, place);
  std::vector<std::string> mistakes;
  std::set<std::string> expected;
  for (const Parameter& parameter : parameters) {
    expected.insert(parameter.name);
    const TensorInfo* stored = adapter.find(parameter.name);
    if (stored == nullptr)
      mistakes.push_back(fmt::format("{} is missing", parameter.name));
    else if (stored->shape != stored_shape(parameter))
      mistakes.push_back(fmt::format("{} is [{}], the model wants [{}]", parameter.name, fmt::join(stored->shape, ", "),
                                     fmt::join(stored_shape(parameter), ", ")));
  }
  for (const TensorInfo& stored : adapter.tensors())
    if (expected.count(stored.name) == 0) mistakes.push_back(fmt::format("{} is not trained here", stored.name));
  if (!mistakes.empty())
    throw Error{Fault::data, place, fmt::format("the adapter does not fit: {}", fmt::join(mistakes, "; ")),
                "give adapter.lora_target_modules and model.base_model of the run that made it"};
  for (Parameter& parameter : parameters) {
    at::Tensor host = at::empty(stored_shape(parameter), at::kFloat);
    adapter.read(parameter.name, Dtype::fp32, {static_cast<std::byte*>(host.mutable_data_ptr()), host.nbytes()});
    if (!all_finite(host))
      throw Error{Fault::data, place, fmt::format("tensor {} holds NaN or infinity", parameter.name),
                  "take an earlier checkpoint of the run that made it"};
    restore(parameter, host);
  }
}

}  // namespace tune
