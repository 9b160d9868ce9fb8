#include "tools/export/onnx/experts.h"

#include <fmt/format.h>

namespace tune {

namespace {

using Names = OnnxGraphBuilder::Names;

const OnnxAttributes kAxis0 = {{"axis", std::int64_t{0}}};

std::string cast(const std::string& x, OnnxType type, OnnxGraphBuilder& graph) {
  return graph.add("Cast", {x}, {{"to", static_cast<std::int64_t>(type)}});
}

/// Of each token the experts it chose, [tokens, chosen] int64, and what each counts, in the computing type.
struct Choice {
  std::string experts, shares;
};

Choice add_router(const std::string& rows, const std::string& module, const ModelConfig& config, OnnxWeights& weights,
                  OnnxGraphBuilder& graph) {
  const std::string logits = cast(weights.exact_linear(rows, module + ".gate"), OnnxType::float32, graph);
  const std::string probabilities = graph.add("Softmax", {logits}, {{"axis", std::int64_t{-1}}});
  const std::string best = graph.fresh("best"), experts = graph.fresh("experts");
  graph.add_with_outputs("TopK", {probabilities, graph.integers({config.num_experts_per_tok})}, {best, experts},
                         {{"axis", std::int64_t{-1}}});
  const std::string sum = graph.add("ReduceSum", {best, graph.integers({-1})}, {{"keepdims", std::int64_t{1}}});
  return {experts, cast(graph.add("Div", {best, sum}), onnx_type_of(weights.computes_in()), graph)};
}

/// Where in [tokens, chosen] one expert was chosen, [n, 2], and its answers there, [n, hidden_size].
struct Answer {
  std::string places, values;
};

Answer add_expert(std::int64_t expert, const std::string& rows, const Choice& choice, const std::string& module,
                  OnnxWeights& weights, OnnxGraphBuilder& graph) {
  const std::string prefix = fmt::format("{}.experts.{}.", module, expert);
  const std::string chosen = graph.add("Equal", {choice.experts, graph.integer(expert)});
  const std::string places =
      graph.add("Transpose", {graph.add("NonZero", {chosen})}, {{"perm", std::vector<std::int64_t>{1, 0}}});
  const std::string tokens = graph.add("Gather", {places, graph.integer(0)}, {{"axis", std::int64_t{1}}});
  const std::string values = add_swiglu(graph.add("Gather", {rows, tokens}, kAxis0), prefix + "w1", prefix + "w3",
                                        prefix + "w2", weights, graph);
  const std::string shares =
      graph.add("Unsqueeze", {graph.add("GatherND", {choice.shares, places}), graph.integers({-1})});
  return {places, graph.add("Mul", {values, shares})};
}

}  // namespace

std::string add_swiglu(const std::string& x, const std::string& gate, const std::string& up, const std::string& down,
                       OnnxWeights& weights, OnnxGraphBuilder& graph) {
  const std::string gated = weights.linear(x, gate);
  const std::string activated = graph.add("Mul", {gated, graph.add("Sigmoid", {gated})});
  return weights.linear(graph.add("Mul", {activated, weights.linear(x, up)}), down);
}

std::string add_experts(const std::string& x, const std::string& module, const ModelConfig& config,
                        OnnxWeights& weights, OnnxGraphBuilder& graph) {
  const std::string rows = graph.add("Reshape", {x, graph.integers({-1, config.hidden_size})});
  const Choice choice = add_router(rows, module, config, weights, graph);
  Names places, values;
  for (std::int64_t expert = 0; expert < config.num_local_experts; ++expert) {
    const Answer answer = add_expert(expert, rows, choice, module, weights, graph);
    places.push_back(answer.places);
    values.push_back(answer.values);
  }
  // Every place of [tokens, chosen] is one expert's: together they fill [tokens, chosen, hidden_size].
  const std::string shape =
      graph.add("Concat", {graph.add("Shape", {choice.experts}), graph.integers({config.hidden_size})}, kAxis0);
  const std::string all_values = graph.add("Concat", values, kAxis0);
  const std::string empty =
      graph.add("Expand", {cast(graph.number(0.0f), onnx_type_of(weights.computes_in()), graph), shape});
  const std::string filled = graph.add("ScatterND", {empty, graph.add("Concat", places, kAxis0), all_values});
  const std::string sum = graph.add("ReduceSum", {filled, graph.integers({1})}, {{"keepdims", std::int64_t{0}}});
  return graph.add("Reshape", {sum, graph.add("Shape", {x})});
}

}  // namespace tune
