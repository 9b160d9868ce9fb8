#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "tools/export/onnx/experts.h"
#include "tools/export/onnx/graphs.h"
#include "tools/export/onnx/interface.h"

namespace tune {

namespace {

using Ints = std::vector<std::int64_t>;

const OnnxAttributes kAxis0 = {{"axis", std::int64_t{0}}}, kAxis2 = {{"axis", std::int64_t{2}}},
                     kLastAxis = {{"axis", std::int64_t{-1}}};
const OnnxAttributes kSwapHeads = {{"perm", Ints{0, 2, 1, 3}}};

class StandardGraph {
 public:
  StandardGraph(const ModelConfig& config, OnnxWeights& weights, OnnxGraphBuilder& graph)
      : config_(config),
        weights_(weights),
        graph_(graph),
        type_(onnx_type_of(weights.computes_in())),
        grouped_(config.num_attention_heads != config.num_key_value_heads) {}

  void build() {
    declare_decoder(config_, type_, true, graph_);
    graph_.enter("decoder");
    add_positions();
    add_mask();
    std::string x = weights_.embed("input_ids");
    for (std::int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) x = add_layer(layer, x);
    graph_.enter("head");
    graph_.add_as("logits", "Identity", {weights_.head(add_norm(x, "model.norm"), "input_ids")});
  }

 private:
  std::string cast(const std::string& x, OnnxType type) {
    return graph_.add("Cast", {x}, {{"to", static_cast<std::int64_t>(type)}});
  }
  /// fp32 from the computing type, and back.
  std::string widened(const std::string& x) { return type_ == OnnxType::float32 ? x : cast(x, OnnxType::float32); }
  std::string narrowed(const std::string& x) { return type_ == OnnxType::float32 ? x : cast(x, type_); }

  /// cosine_ and sine_ [B, 1, S, D/2] of the tokens' positions.
  void add_positions() {
    const OnnxWeights::RopeTables tables = weights_.rope_tables();
    const auto at_positions = [&](const std::string& table) {
      return graph_.add("Unsqueeze", {graph_.add("Gather", {table, "position_ids"}), graph_.integers({1})});
    };
    cosine_ = at_positions(tables.cosine);
    sine_ = at_positions(tables.sine);
  }

  /// length_ and total_, S and P + S, as [1]; bias_ [B, 1, S, P + S] fp32: 0 where a token sees another, and the lowest
  /// number where not. Infinity would make NaN of a row that sees nothing, which the rows of left padding are.
  void add_mask() {
    const auto last_size = [&](const char* input) {
      return graph_.add("Gather", {graph_.add("Shape", {input}), graph_.integers({1})}, kAxis0);
    };
    length_ = last_size("input_ids");
    total_ = last_size("attention_mask");
    const auto as_scalar = [&](const std::string& one) { return graph_.add("Squeeze", {one, graph_.integers({0})}); };
    const std::string end = as_scalar(total_), begin = graph_.add("Sub", {end, as_scalar(length_)});
    const std::string one = graph_.integer(1);
    const std::string keys = graph_.add("Range", {graph_.integer(0), end, one});
    const std::string queries = graph_.add("Unsqueeze", {graph_.add("Range", {begin, end, one}), graph_.integers({1})});
    std::string seen = graph_.add("LessOrEqual", {keys, queries});
    if (config_.sliding_window > 0) {
      const std::string reach = graph_.add("Sub", {queries, graph_.integer(config_.sliding_window)});
      seen = graph_.add("And", {seen, graph_.add("Greater", {keys, reach})});
    }
    const std::string real =
        graph_.add("Unsqueeze", {cast("attention_mask", OnnxType::boolean), graph_.integers({1, 2})});
    bias_ = graph_.add("Where", {graph_.add("And", {seen, real}), graph_.number(0.0f),
                                 graph_.number(std::numeric_limits<float>::lowest())});
    if (grouped_) add_group_shapes();
  }

  /// Query heads that share a key head are rows of one product; the mask wants them apart.
  void add_group_shapes() {
    const std::int64_t heads = config_.num_key_value_heads, group = config_.num_attention_heads / heads;
    bias_ = graph_.add("Unsqueeze", {bias_, graph_.integers({1})});
    apart_ = graph_.add("Concat", {graph_.integers({0, heads, group}), length_, graph_.integers({-1})}, kAxis0);
    together_ = graph_.add("Concat", {graph_.integers({0, heads, -1}), total_}, kAxis0);
  }

  /// In fp32, in the shape that onnxruntime knows as one operator.
  std::string add_norm(const std::string& x, const std::string& module) {
    const std::string wide = widened(x);
    const std::string squares = graph_.add("Pow", {wide, graph_.number(2.0f)});
    const std::string mean = graph_.opset() < 18 ? graph_.add("ReduceMean", {squares}, {{"axes", Ints{-1}}})
                                                 : graph_.add("ReduceMean", {squares, graph_.integers({-1})});
    const auto epsilon = static_cast<float>(config_.rms_norm_eps);
    const std::string root = graph_.add("Sqrt", {graph_.add("Add", {mean, graph_.number(epsilon)})});
    return graph_.add("Mul", {narrowed(graph_.add("Div", {wide, root})), weights_.vector(module)});
  }

  /// [B, S, heads * D] -> [B, heads, S, D].
  std::string by_heads(const std::string& x, std::int64_t heads) {
    const std::string shape = graph_.integers({0, 0, heads, config_.head_dim});
    return graph_.add("Transpose", {graph_.add("Reshape", {x, shape})}, kSwapHeads);
  }

  /// Rotary embedding, halves as pairs.
  std::string rotated(const std::string& x) {
    const std::string a = graph_.fresh("half"), b = graph_.fresh("half");
    const std::int64_t half = config_.head_dim / 2;
    graph_.add_with_outputs("Split", {x, graph_.integers({half, half})}, {a, b}, kLastAxis);
    const auto times = [&](const std::string& left, const std::string& right) {
      return graph_.add("Mul", {left, right});
    };
    const std::string first = graph_.add("Sub", {times(a, cosine_), times(b, sine_)});
    const std::string second = graph_.add("Add", {times(b, cosine_), times(a, sine_)});
    return graph_.add("Concat", {first, second}, kLastAxis);
  }

  /// The cache with the new tokens behind it: the output `present`.
  std::string remembered(std::int64_t layer, const char* what, const std::string& fresh) {
    const std::string present = present_name(layer, what);
    graph_.add_as(present, "Concat", {past_name(layer, what), fresh}, kAxis2);
    return present;
  }

  std::string add_attention(std::int64_t layer, const std::string& x) {
    const std::string module = fmt::format("model.layers.{}.self_attn.", layer);
    const std::int64_t heads = config_.num_attention_heads, key_heads = config_.num_key_value_heads;
    const std::string query = rotated(by_heads(weights_.linear(x, module + "q_proj"), heads));
    const std::string key =
        remembered(layer, "key", rotated(by_heads(weights_.linear(x, module + "k_proj"), key_heads)));
    const std::string value = remembered(layer, "value", by_heads(weights_.linear(x, module + "v_proj"), key_heads));
    const std::string shares = add_shares(query, key);
    const std::string merged = graph_.integers({0, 0, heads * config_.head_dim});
    std::string context = graph_.add("MatMul", {shares, value});
    if (grouped_) context = graph_.add("Reshape", {context, graph_.integers({0, heads, -1, config_.head_dim})});
    context = graph_.add("Reshape", {graph_.add("Transpose", {context}, kSwapHeads), merged});
    return weights_.linear(context, module + "o_proj");
  }

  /// How much each query takes of each key: [B, Hk, query heads a key head * S, P + S].
  std::string add_shares(const std::string& query, const std::string& key) {
    const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_dim)));
    std::string rows = graph_.add("Mul", {query, narrowed(graph_.number(scale))});
    if (grouped_)
      rows = graph_.add("Reshape", {rows, graph_.integers({0, config_.num_key_value_heads, -1, config_.head_dim})});
    const std::string turned = graph_.add("Transpose", {key}, {{"perm", Ints{0, 1, 3, 2}}});
    std::string scores = widened(graph_.add("MatMul", {rows, turned}));
    if (grouped_) scores = graph_.add("Reshape", {scores, apart_});
    const std::string shares = narrowed(graph_.add("Softmax", {graph_.add("Add", {scores, bias_})}, kLastAxis));
    return grouped_ ? graph_.add("Reshape", {shares, together_}) : shares;
  }

  std::string add_mlp(std::int64_t layer, const std::string& x) {
    const std::string module = fmt::format("model.layers.{}.", layer);
    if (config_.num_local_experts > 0) return add_experts(x, module + "block_sparse_moe", config_, weights_, graph_);
    return add_swiglu(x, module + "mlp.gate_proj", module + "mlp.up_proj", module + "mlp.down_proj", weights_, graph_);
  }

  std::string add_layer(std::int64_t layer, const std::string& x) {
    graph_.enter(fmt::format("layers.{}", layer));
    const std::string module = fmt::format("model.layers.{}.", layer);
    const std::string attended = graph_.add("Add", {x, add_attention(layer, add_norm(x, module + "input_layernorm"))});
    return graph_.add("Add", {attended, add_mlp(layer, add_norm(attended, module + "post_attention_layernorm"))});
  }

  const ModelConfig& config_;
  OnnxWeights& weights_;
  OnnxGraphBuilder& graph_;
  OnnxType type_;  // of what is computed
  bool grouped_;   // several query heads share a key head
  std::string cosine_, sine_, length_, total_, bias_, apart_, together_;
};

}  // namespace

void build_standard_graph(const ModelConfig& config, OnnxWeights& weights, OnnxGraphBuilder& graph) {
  StandardGraph(config, weights, graph).build();
}

}  // namespace tune
