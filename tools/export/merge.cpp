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

constexpr std::string_view kEmbedding = "model.embed_tokens", kEmbeddingWeight = "model.embed_tokens.weight",
                           kHeadWeight = "lm_head.weight", kTokenRows = ".token_adapter.trainable_tokens_delta";
constexpr std::array kEnds = {kFactorA, kFactorB, kMagnitude};

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

/// DoRA: the row, scaled to that length.
void bring_to_length(std::span<float> row, float length) {
  double square = 0;
  for (const float value : row) square += static_cast<double>(value) * value;
  if (square == 0) return;
  const auto factor = static_cast<float>(length / std::sqrt(square));
  for (float& value : row) value *= factor;
}

std::string without_prefix(const std::string& module) { return module.substr(kAdapterPrefix.size()); }

/// What is wrong with the pair of factors of one matrix; empty = nothing.
std::string mistake(const WeightSource& base, const AdapterFolder& adapter, const std::string& module) {
  const std::string weight = fmt::format("{}.weight", without_prefix(module));
  const std::int64_t rank = adapter.config().rank_of(without_prefix(module));
  const TensorInfo* a = adapter.find(fmt::format("{}{}", module, kFactorA));
  const TensorInfo* b = adapter.find(fmt::format("{}{}", module, kFactorB));
  const TensorInfo* target = base.find(weight);
  if (a == nullptr || b == nullptr) return fmt::format("{} has only one of lora_A and lora_B", module);
  if (target == nullptr || target->shape.size() != 2) return fmt::format("the base has no matrix {}", weight);
  const std::vector<std::int64_t> shape_a = {rank, target->shape[1]}, shape_b = {target->shape[0], rank};
  const TensorInfo* lengths = adapter.find(fmt::format("{}{}", module, kMagnitude));
  if ((lengths != nullptr) != adapter.config().use_dora ||
      (lengths != nullptr && lengths->shape != std::vector{target->shape[0]}))
    return fmt::format("{} {}", module,
                       lengths == nullptr ? "has no lora_magnitude_vector, but use_dora is true"
                                          : "has a lora_magnitude_vector that doesn't belong to it");
  if (a->shape == shape_a && b->shape == shape_b) return "";
  return fmt::format("{}: A [{}] and B [{}] don't fit W [{}] at rank {}", module, fmt::join(a->shape, ", "),
                     fmt::join(b->shape, ", "), fmt::join(target->shape, ", "), rank);
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

void refuse_more_than_factors(const AdapterFolder& adapter, const std::string& why, const std::string& remedy) {
  const AdapterConfig& config = adapter.config();
  const char* more = config.use_dora                           ? "lengths of rows (use_dora)"
                     : !config.modules_to_save.empty()         ? "whole modules (modules_to_save)"
                     : !config.trainable_token_indices.empty() ? "rows of tokens (trainable_token_indices)"
                                                               : nullptr;
  if (more != nullptr)
    throw Error{Fault::data, {adapter.path().string()}, fmt::format("the adapter has {}, which {}", more, why), remedy};
}

MergedWeights::MergedWeights(const WeightSource& base, const AdapterFolder& adapter, const std::string& adapter_path)
    : base_(base), adapter_(adapter) {
  std::vector<std::string> mistakes;
  for (const TensorInfo& info : adapter.tensors())
    if (std::string text = add(info); !text.empty()) mistakes.push_back(std::move(text));
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

// Returns what is wrong with the tensor, or nothing.
std::string MergedWeights::add(const TensorInfo& info) {
  const std::string name = info.name.starts_with(kAdapterPrefix) ? without_prefix(info.name) : "";
  if (name == fmt::format("{}{}", kEmbedding, kTokenRows)) {
    const std::vector<std::int64_t>& ids = adapter_.config().trainable_token_indices;
    const TensorInfo* table = base_.find(kEmbeddingWeight);
    has_token_rows_ = table != nullptr && info.shape == std::vector{std::ssize(ids), table->shape[1]} &&
                      std::all_of(ids.begin(), ids.end(), [&](std::int64_t id) { return id < table->shape[0]; });
    return has_token_rows_ ? "" : fmt::format("{} is of another vocabulary", info.name);
  }
  if (name == kEmbeddingWeight || name == kHeadWeight) {
    whole_.emplace(name, info.name);
    const TensorInfo* target = base_.find(name);
    const bool fits = target != nullptr && target->shape == info.shape;
    return fits ? "" : fmt::format("the base has no {} [{}]", name, fmt::join(info.shape, ", "));
  }
  const auto* const end =
      std::find_if(kEnds.begin(), kEnds.end(), [&](std::string_view each) { return info.name.ends_with(each); });
  if (name.empty() || end == kEnds.end()) return fmt::format("{} is no factor of a linear layer", info.name);
  const std::string module = info.name.substr(0, info.name.size() - end->size());
  const bool is_new = module_of_.emplace(fmt::format("{}.weight", without_prefix(module)), module).second;
  return is_new ? mistake(base_, adapter_, module) : "";
}

void MergedWeights::read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const {
  const std::string key(name);
  if (!whole_.contains(key) && !module_of_.contains(key) && !(has_token_rows_ && key == kEmbeddingWeight))
    return base_.read(name, dtype, destination);
  read_rows(name, 0, base_.find(name)->shape[0], dtype, destination);
}

void MergedWeights::read_rows(std::string_view name, std::int64_t first, std::int64_t count, Dtype dtype,
                              std::span<std::byte> destination) const {
  const std::string key(name);
  if (const auto whole = whole_.find(key); whole != whole_.end())
    return adapter_.read_rows(whole->second, first, count, dtype, destination);
  if (module_of_.find(key) == module_of_.end()) {
    base_.read_rows(name, first, count, dtype, destination);
    if (has_token_rows_ && key == kEmbeddingWeight) put_token_rows(first, count, dtype, destination);
    return;
  }
  const auto columns = static_cast<std::size_t>(base_.find(name)->shape[1]);
  const std::shared_ptr<const Factors> pair = factors(key);
  std::vector<float> rows(static_cast<std::size_t>(count) * columns);
  base_.read_rows(name, first, count, Dtype::fp32, std::as_writable_bytes(std::span(rows)));
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    const auto row = std::span(rows).subspan(i * columns, columns);
    const std::size_t number = static_cast<std::size_t>(first) + i;
    add_product(row, pair->b.data() + number * pair->rank, pair->a, pair->rank, pair->scale);
    if (!pair->magnitudes.empty()) bring_to_length(row, pair->magnitudes[number]);
  }
  convert_elements("F32", std::as_bytes(std::span(rows)), dtype, destination);
}

void MergedWeights::put_token_rows(std::int64_t first, std::int64_t count, Dtype dtype,
                                   std::span<std::byte> destination) const {
  const std::vector<std::int64_t>& ids = adapter_.config().trainable_token_indices;
  const std::string name = fmt::format("{}{}{}", kAdapterPrefix, kEmbedding, kTokenRows);
  const std::size_t row = destination.size() / static_cast<std::size_t>(count);
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (ids[i] >= first && ids[i] < first + count)
      adapter_.read_rows(name, static_cast<std::int64_t>(i), 1, dtype,
                         destination.subspan(static_cast<std::size_t>(ids[i] - first) * row, row));
}

std::shared_ptr<const MergedWeights::Factors> MergedWeights::factors(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  if (latest_ && latest_->name == name) return latest_;
  const std::string& module = module_of_.at(name);
  const auto read = [&](std::string_view end) { return read_factor(adapter_, fmt::format("{}{}", module, end)); };
  latest_ = std::make_shared<const Factors>(
      Factors{.name = name,
              .rank = static_cast<std::size_t>(adapter_.config().rank_of(without_prefix(module))),
              .scale = static_cast<float>(adapter_.config().scale_of(without_prefix(module))),
              .a = read(kFactorA),
              .b = read(kFactorB),
              .magnitudes = adapter_.config().use_dora ? read(kMagnitude) : std::vector<float>()});
  return latest_;
}

}  // namespace tune
