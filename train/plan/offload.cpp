#include "train/plan/offload.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "recipes/schema/error.h"
#include "train/plan/memory.h"

namespace tune {
namespace {

// Values of the largest trained tensors that go through either buffer.
using Largest = std::array<std::int64_t, 2>;

Largest largest_factors(const AdapterOptions& adapter, const ModelConfig& c) {
  std::int64_t largest = adapter.modules_to_save.empty() ? 0 : c.vocab_size * c.hidden_size;
  const std::vector<std::string> targets = adapted_modules(adapter, c);
  for (const LinearKind& linear : linear_kinds(c))
    if (contains(targets, linear.name))
      largest = std::max(largest, largest_rank_of(adapter, c, linear.name) * std::max(linear.out, linear.in));
  return {largest, largest};
}

// Tensors take turns, the embedding first, the head last; each layer has large ones for both.
Largest largest_weights(const Recipe& recipe, const ModelConfig& c) {
  std::int64_t in_a_layer = 2;  // norms
  for (const LinearKind& linear : linear_kinds(c))
    if (linear.name != "gate" || recipe.train.train_router) in_a_layer += linear.count;
  const std::int64_t head = 1 + c.num_hidden_layers * in_a_layer + 1, matrix = largest_in_layer(c),
                     table = std::max(c.vocab_size * c.hidden_size, matrix);
  return {table, !c.tie_word_embeddings && head % 2 == 1 ? table : matrix};
}

// A rank's slice of a layer may hold a whole matrix.
Largest largest_slices(const ModelConfig& c, std::int64_t ranks) {
  std::int64_t layer = 0;
  for (const LinearKind& linear : linear_kinds(c)) layer += linear.count * linear.out * linear.in;
  const std::int64_t largest =
      std::max(c.vocab_size * c.hidden_size / ranks, std::min(largest_in_layer(c), layer / ranks));
  return {largest, largest};
}

}  // namespace

std::int64_t offload_buffer_bytes(const Recipe& recipe, const ModelConfig& config, std::int64_t ranks) {
  const Largest largest = has_adapter(recipe.adapter) ? largest_factors(recipe.adapter, config)
                          : ranks > 1                 ? largest_slices(config, ranks)
                                                      : largest_weights(recipe, config);
  const auto trained = static_cast<double>(trainable_parameters(config, recipe.adapter, recipe.train.train_router));
  const double bytes_a_value = static_cast<double>(optimizer_state_bytes(recipe, config)) / trained;
  return static_cast<std::int64_t>(bytes_a_value * static_cast<double>(largest[0] + largest[1]));
}

std::vector<MemoryItem> host_memory_items(const Recipe& recipe, const ModelConfig& config, std::int64_t ranks) {
  if (!recipe.train.offload_optimizer || recipe.train.device != Device::cuda) return {};
  return {{"optimizer", optimizer_state_bytes(recipe, config) / state_ranks(recipe, ranks)}};
}

void require_host_memory(const Plan& plan, OptimizerType optim, std::int64_t ranks_of_host, std::int64_t available) {
  constexpr double kGiB = 1 << 30;
  for (const MemoryItem& item : plan.host_memory)
    if (const std::int64_t wanted = item.bytes * ranks_of_host; wanted > available)
      throw Error{Fault::memory,
                  {},
                  fmt::format("train.offload_optimizer: the {} of this host's ranks takes {:.1f} GiB of its memory, "
                              "{:.1f} GiB are free",
                              item.name, static_cast<double>(wanted) / kGiB, static_cast<double>(available) / kGiB),
                  optim == OptimizerType::adamw ? "write train.optim: adamw_8bit, whose state is a quarter, or take a "
                                                  "host with more memory"
                                                : "take a host with more memory, or write train.optim: adafactor"};
}

}  // namespace tune
