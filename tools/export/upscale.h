#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace tune {

/// Layers [first, end) of a model.
struct LayerRange {
  std::int64_t first = 0, end = 0;
};

/// "0-24,8-32": [0, 24) and then [8, 32). Error{Fault::recipe} for what can't be read so, is empty or runs backwards.
std::vector<LayerRange> parse_layer_ranges(const std::string& text);

/// What an up-scaled model is made of.
struct Upscaled {
  std::int64_t num_hidden_layers = 0;
  std::int64_t parameters = 0;
  std::uint64_t bytes = 0;
};

/// Depth up-scaling (Kim et al. 2023, "SOLAR 10.7B", section 2.1): a copy of a base model whose layers are those of the
/// ranges, one after the other; none: 0-24,8-32, for models of 32 layers. Tensors are copied bit by bit, in their own
/// dtype; config.json gets another num_hidden_layers; the tokenizer and whatever else is not weights are copied byte
/// for byte. The folder appears whole or not at all. Streamed: a few MB whatever the model's size.
/// Error{Fault::recipe}: a range that goes beyond the model, an output that exists or lies inside the model;
/// Error{Fault::data}: no model, a GGUF, tensors that don't fit the configuration or hold what is no number;
/// Error{Fault::running}: no room on the disk, or a stop was asked for.
Upscaled upscale(const std::filesystem::path& model, const std::optional<std::vector<LayerRange>>& ranges,
                 const std::filesystem::path& output);

}  // namespace tune
