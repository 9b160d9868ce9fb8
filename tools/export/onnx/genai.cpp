#include <fmt/format.h>

#include "recipes/schema/error.h"
#include "tools/export/onnx/experts.h"
#include "tools/export/onnx/graphs.h"
#include "tools/export/onnx/interface.h"

namespace tune {

namespace {

class GenaiGraph {
 public:
  GenaiGraph(const ModelConfig& config, OnnxWeights& weights, OnnxGraphBuilder& graph)
      : config_(config), weights_(weights), graph_(graph) {}

  void build() {
    declare_decoder(config_, onnx_type_of(weights_.computes_in()), false, graph_);
    graph_.enter("decoder");
    add_lengths();
    tables_ = weights_.rope_tables();
    Stream stream{weights_.embed("input_ids"), ""};
    stream.normed = add_first_norm(stream.residual);
    for (std::int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) stream = add_layer(layer, stream);
    graph_.enter("head");
    graph_.add_as("logits", "Identity", {weights_.head(stream.normed, "input_ids")});
  }

 private:
  /// Between two blocks: the sum so far, and what the next block takes.
  struct Stream {
    std::string residual, normed;
  };

  std::string as_int32(const std::string& x) {
    return graph_.add("Cast", {x}, {{"to", static_cast<std::int64_t>(OnnxType::int32)}});
  }

  /// last_ int32 [B]: where each row's last token stands; total_ int32, a scalar: P + S.
  void add_lengths() {
    const std::string tokens =
        graph_.add("ReduceSum", {"attention_mask", graph_.integers({1})}, {{"keepdims", std::int64_t{0}}});
    last_ = as_int32(graph_.add("Sub", {tokens, graph_.integer(1)}));
    const std::string shape = graph_.add("Shape", {"attention_mask"});
    total_ = as_int32(graph_.add("Gather", {shape, graph_.integer(1)}, {{"axis", std::int64_t{0}}}));
  }

  OnnxAttributeValue epsilon() const { return static_cast<float>(config_.rms_norm_eps); }

  std::string add_first_norm(const std::string& x) {
    return graph_.add("SimplifiedLayerNormalization", {x, weights_.vector("model.layers.0.input_layernorm")},
                      {{"axis", std::int64_t{-1}}, {"epsilon", epsilon()}, {"stash_type", std::int64_t{1}}});
  }

  Stream add_norm(const std::string& residual, const std::string& x, const std::string& module) {
    Stream next{graph_.fresh("residual"), graph_.fresh("normed")};
    graph_.add_with_outputs("SkipSimplifiedLayerNormalization", {residual, x, weights_.vector(module)},
                            {next.normed, "", "", next.residual}, {{"epsilon", epsilon()}}, kMicrosoft);
    return next;
  }

  std::string add_attention(std::int64_t layer, const std::string& x) {
    const std::string module = fmt::format("model.layers.{}.self_attn.", layer);
    const std::string context = graph_.fresh("context");
    const OnnxGraphBuilder::Names inputs = {weights_.linear(x, module + "q_proj"),
                                            weights_.linear(x, module + "k_proj"),
                                            weights_.linear(x, module + "v_proj"),
                                            past_name(layer, "key"),
                                            past_name(layer, "value"),
                                            last_,
                                            total_,
                                            tables_.cosine,
                                            tables_.sine};
    const std::int64_t window = config_.sliding_window > 0 ? config_.sliding_window : -1;
    graph_.add_with_outputs("GroupQueryAttention", inputs,
                            {context, present_name(layer, "key"), present_name(layer, "value")},
                            {{"num_heads", config_.num_attention_heads},
                             {"kv_num_heads", config_.num_key_value_heads},
                             {"do_rotary", std::int64_t{1}},
                             {"rotary_interleaved", std::int64_t{0}},
                             {"local_window_size", window}},
                            kMicrosoft);
    return weights_.linear(context, module + "o_proj");
  }

  Stream add_layer(std::int64_t layer, const Stream& stream) {
    graph_.enter(fmt::format("layers.{}", layer));
    const std::string module = fmt::format("model.layers.{}.", layer);
    const Stream attended =
        add_norm(stream.residual, add_attention(layer, stream.normed), module + "post_attention_layernorm");
    const std::string mlp = add_swiglu(attended.normed, module + "mlp.gate_proj", module + "mlp.up_proj",
                                       module + "mlp.down_proj", weights_, graph_);
    const bool last = layer + 1 == config_.num_hidden_layers;
    return add_norm(attended.residual, mlp,
                    last ? "model.norm" : fmt::format("model.layers.{}.input_layernorm", layer + 1));
  }

  const ModelConfig& config_;
  OnnxWeights& weights_;
  OnnxGraphBuilder& graph_;
  OnnxWeights::RopeTables tables_;
  std::string last_, total_;
};

}  // namespace

void build_genai_graph(const ModelConfig& config, OnnxWeights& weights, OnnxGraphBuilder& graph) {
  TUNE_CHECK(config.num_local_experts == 0, "{} experts", config.num_local_experts);
  GenaiGraph(config, weights, graph).build();
}

}  // namespace tune
