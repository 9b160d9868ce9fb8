#include "tools/export/merge.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "checkpoints/huggingface/convert.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

/// row += scale * sum over k of b[k] * A[k, :], by tiles that stay in the first-level cache.
void add_product(std::span<float> row, const float* b, std::span<const float> a, std::size_t rank, float scale) {
  constexpr std::size_t kTile = 1024;
  const std::size_t columns = row.size();
  std::array<float, kTile> sum;
  for (std::size_t begin = 0; begin < columns; begin += kTile) {
    const std::size_t width = std::min(kTile, columns - begin);
    std::fill_n(sum.begin(), width, 0.0f);
    for (std::size_t k = 0; k < rank; ++k) {
      const float factor = b[k];
      const float* values = a.data() + k * columns + begin;
      for (std::size_t i = 0; i < width; ++i) sum[i] += factor * values[i];
    }
    for (std::size_t i = 0; i < width; ++i) row[begin + i] += scale * sum[i];
  }
}

/// What is wrong with the pair of factors of one matrix; empty = nothing.
std::string mistake(const WeightSource& base, const AdapterFolder& adapter, const std::string& module) {
  const std::string weight = fmt::format("{}.weight", module.substr(kAdapterPrefix.size()));
  const TensorInfo* a = adapter.find(fmt::format("{}{}", module, kFactorA));
  const TensorInfo* b = adapter.find(fmt::format("{}{}", module, kFactorB));
  const TensorInfo* target = base.find(weight);
  if (a == nullptr || b == nullptr) return fmt::format("{} has only one of lora_A and lora_B", module);
  if (target == nullptr || target->shape.size() != 2) return fmt::format("the base has no matrix {}", weight);
  const std::vector<std::int64_t> shape_a = {adapter.config().r, target->shape[1]};
  const std::vector<std::int64_t> shape_b = {target->shape[0], adapter.config().r};
  if (a->shape == shape_a && b->shape == shape_b) return "";
  return fmt::format("{}: A [{}] and B [{}] don't fit W [{}] at rank {}", module, fmt::join(a->shape, ", "),
                     fmt::join(b->shape, ", "), fmt::join(target->shape, ", "), adapter.config().r);
}

}  // namespace

std::vector<float> read_factor(const AdapterFolder& adapter, const std::string& name) {
  std::vector<float> values(static_cast<std::size_t>(element_count(*adapter.find(name))));
  adapter.read(name, Dtype::fp32, std::as_writable_bytes(std::span(values)));
  if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }))
    throw Error{Fault::data,
                {adapter.path().string()},
                fmt::format("tensor {} holds NaN or infinity", name),
                "take an earlier checkpoint of the run that made it"};
  return values;
}

MergedWeights::MergedWeights(const WeightSource& base, const AdapterFolder& adapter, const std::string& adapter_path)
    : base_(base), adapter_(adapter) {
  std::vector<std::string> mistakes;
  for (const TensorInfo& info : adapter.tensors()) {
    const bool is_a = info.name.ends_with(kFactorA), is_b = info.name.ends_with(kFactorB);
    if (!info.name.starts_with(kAdapterPrefix) || (!is_a && !is_b)) {
      mistakes.push_back(fmt::format("{} is no factor of a linear layer", info.name));
      continue;
    }
    const std::string module = info.name.substr(0, info.name.size() - kFactorA.size());
    const bool is_new =
        module_of_.emplace(fmt::format("{}.weight", module.substr(kAdapterPrefix.size())), module).second;
    if (!is_new) continue;
    if (std::string text = mistake(base, adapter, module); !text.empty()) mistakes.push_back(std::move(text));
  }
  if (adapter.tensors().empty()) mistakes.emplace_back("it has no tensors");
  if (mistakes.empty()) return;
  constexpr std::size_t kShown = 5;
  const std::string more = mistakes.size() > kShown ? fmt::format("; and {} more", mistakes.size() - kShown) : "";
  mistakes.resize(std::min(mistakes.size(), kShown));
  throw Error{Fault::data,
              {adapter_path},
              fmt::format("the adapter doesn't fit its base model: {}{}", fmt::join(mistakes, "; "), more),
              "give the base model that it was trained on"};
}

void MergedWeights::read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const {
  if (module_of_.find(std::string(name)) == module_of_.end()) return base_.read(name, dtype, destination);
  read_rows(name, 0, base_.find(name)->shape[0], dtype, destination);
}

void MergedWeights::read_rows(std::string_view name, std::int64_t first, std::int64_t count, Dtype dtype,
                              std::span<std::byte> destination) const {
  const std::string key(name);
  if (module_of_.find(key) == module_of_.end()) return base_.read_rows(name, first, count, dtype, destination);
  const auto columns = static_cast<std::size_t>(base_.find(name)->shape[1]);
  const auto rank = static_cast<std::size_t>(adapter_.config().r);
  const auto scale = static_cast<float>(adapter_.config().scale());
  const std::shared_ptr<const Factors> pair = factors(key);
  std::vector<float> rows(static_cast<std::size_t>(count) * columns);
  base_.read_rows(name, first, count, Dtype::fp32, std::as_writable_bytes(std::span(rows)));
  for (std::size_t row = 0; row < static_cast<std::size_t>(count); ++row)
    add_product(std::span(rows).subspan(row * columns, columns),
                pair->b.data() + (static_cast<std::size_t>(first) + row) * rank, pair->a, rank, scale);
  convert_elements("F32", std::as_bytes(std::span(rows)), dtype, destination);
}

std::shared_ptr<const MergedWeights::Factors> MergedWeights::factors(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  if (latest_ && latest_->name == name) return latest_;
  const std::string& module = module_of_.at(name);
  latest_ = std::make_shared<const Factors>(Factors{name, read_factor(adapter_, fmt::format("{}{}", module, kFactorA)),
                                                    read_factor(adapter_, fmt::format("{}{}", module, kFactorB))});
  return latest_;
}

}  // namespace tune
