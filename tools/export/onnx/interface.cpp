#include "tools/export/onnx/interface.h"

#include <fmt/format.h>

namespace tune {

namespace {

// What optimum calls the sizes that are not fixed.
const OnnxDim kBatch = "batch_size", kSequence = "sequence_length", kPast = "past_sequence_length",
              kTotal = "past_sequence_length + sequence_length";

}  // namespace

std::string past_name(std::int64_t layer, const char* what) {
  return fmt::format("past_key_values.{}.{}", layer, what);
}

std::string present_name(std::int64_t layer, const char* what) { return fmt::format("present.{}.{}", layer, what); }

void declare_decoder(const ModelConfig& config, OnnxType computes_in, bool with_positions, OnnxGraphBuilder& graph) {
  graph.input({"input_ids", OnnxType::int64, {kBatch, kSequence}});
  graph.input({"attention_mask", OnnxType::int64, {kBatch, kTotal}});
  if (with_positions) graph.input({"position_ids", OnnxType::int64, {kBatch, kSequence}});
  graph.output({"logits", OnnxType::float32, {kBatch, kSequence, config.vocab_size}});
  for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (const char* what : {"key", "value"}) {
      const auto shape = [&](const OnnxDim& length) {
        return std::vector<OnnxDim>{kBatch, config.num_key_value_heads, length, config.head_dim};
      };
      graph.input({past_name(layer, what), computes_in, shape(kPast)});
      graph.output({present_name(layer, what), computes_in, shape(kTotal)});
    }
  }
}

}  // namespace tune
