#include "tools/export/onnx/weights.h"

#include <algorithm>

#include "checkpoints/huggingface/model_tensors.h"
#include "checkpoints/onnx/quantize.h"
#include "recipes/schema/error.h"
#include "train/kernels/rope.h"

namespace tune {

namespace {

constexpr const char *kEmbeddings = "model.embed_tokens.weight", *kHead = "lm_head.weight";

std::int64_t number_of(OnnxType type) { return static_cast<std::int64_t>(type); }

std::vector<float> values_of(const at::Tensor& table) {
  const at::Tensor plain = table.contiguous();
  return {plain.const_data_ptr<float>(), plain.const_data_ptr<float>() + plain.numel()};
}

}  // namespace

OnnxWeights::OnnxWeights(const ModelForExport& model, Quant quant, bool with_microsoft, OnnxGraphBuilder& graph)
    : model_(model),
      quant_(quant),
      with_microsoft_(with_microsoft),
      graph_(graph),
      expected_(expected_tensors(model.base.config)) {}

const TensorInfo& OnnxWeights::find(const std::string& name) const {
  const auto found =
      std::find_if(expected_.begin(), expected_.end(), [&](const TensorInfo& info) { return info.name == name; });
  TUNE_CHECK(found != expected_.end(), "no tensor {}", name);
  return *found;
}

std::string OnnxWeights::plan(const std::string& name, PlannedWeight weight) {
  weight.tensors.front().name = name;
  if (weight.tensors.size() > 1) weight.tensors.back().name = name + ".scale";
  planned_.push_back(std::move(weight));
  return name;
}

/// What is stored as bf16 is computed with as fp32; onnxruntime converts it once, when it loads the model.
std::string OnnxWeights::widened(const std::string& stored) {
  if (quant_ != Quant::bf16) return stored;
  return graph_.add("Cast", {stored}, {{"to", number_of(OnnxType::float32)}});
}

std::string OnnxWeights::embed(const std::string& ids) {
  const TensorInfo& source = find(kEmbeddings);
  if (!is_integer()) {
    const Dtype stored = quant_ == Quant::bf16 ? Dtype::bf16 : computes_in();
    return widened(graph_.add("Gather", {plan(source.name, plain_weight(model_.weights, source, stored)), ids}));
  }
  const std::string table = plan(source.name, int8_rows_weight(model_.weights, source));
  const std::string rows =
      graph_.add("Cast", {graph_.add("Gather", {table, ids})}, {{"to", number_of(OnnxType::float32)}});
  return graph_.add("Mul", {rows, graph_.add("Gather", {table + ".scale", ids})});
}

std::string OnnxWeights::linear(const std::string& x, const std::string& module) {
  const TensorInfo& source = find(module + ".weight");
  return adapted(times_matrix(x, source, source.name, quant_ == Quant::int4 ? 4 : 8), x, module);
}

std::string OnnxWeights::adapted(const std::string& result, const std::string& x, const std::string& module) {
  return adapter_ == nullptr ? result : adapter_->add(result, x, module);
}

std::string OnnxWeights::times_matrix(const std::string& x, const TensorInfo& source, const std::string& name,
                                      int bits) {
  if (!is_integer()) {
    const Dtype stored = quant_ == Quant::bf16 ? Dtype::bf16 : computes_in();
    return graph_.add("MatMul", {x, widened(plan(name, transposed_weight(model_.weights, source, stored)))});
  }
  if (with_microsoft_) return times_nbits(x, source, name, bits);
  // onnxruntime makes one MatMulNBits of the two; elsewhere the matrix is unpacked
  const std::string stored = plan(name, bits == 4 ? int4_transposed_weight(model_.weights, source)
                                                  : int8_transposed_weight(model_.weights, source));
  const OnnxAttributes layout = bits == 4 ? OnnxAttributes{{"axis", std::int64_t{0}}, {"block_size", kOnnxBlock}}
                                          : OnnxAttributes{{"axis", std::int64_t{1}}};
  return graph_.add("MatMul", {x, graph_.add("DequantizeLinear", {stored, stored + ".scale"}, layout)});
}

std::string OnnxWeights::times_nbits(const std::string& x, const TensorInfo& source, const std::string& name,
                                     int bits) {
  constexpr std::int64_t kInt8Activations = 4;  // of blocks, as llama.cpp has them; fp32 takes up to 60 times as long
  const std::string stored = plan(name, nbits_weight(model_.weights, source, bits));
  return graph_.add("MatMulNBits", {x, stored, stored + ".scale"},
                    {{"K", source.shape[1]},
                     {"N", source.shape[0]},
                     {"bits", std::int64_t{bits}},
                     {"block_size", kOnnxBlock},
                     {"accuracy_level", kInt8Activations}},
                    kMicrosoft);
}

std::string OnnxWeights::exact_linear(const std::string& x, const std::string& module) {
  const TensorInfo& source = find(module + ".weight");
  const std::string result =
      graph_.add("MatMul", {x, plan(source.name, transposed_weight(model_.weights, source, computes_in()))});
  return adapted(result, x, module);
}

std::string OnnxWeights::vector(const std::string& module) {
  const TensorInfo& source = find(module + ".weight");
  return plan(source.name, plain_weight(model_.weights, source, computes_in()));
}

std::string OnnxWeights::head(const std::string& hidden, const std::string& ids) {
  const bool tied = model_.base.config.tie_word_embeddings;
  std::string logits;
  if (tied && !is_integer()) {
    logits = times_tied(hidden, ids);
  } else {
    logits = times_matrix(hidden, find(tied ? kEmbeddings : kHead), kHead, 8);
  }
  if (computes_in() == Dtype::fp32) return logits;
  return graph_.add("Cast", {logits}, {{"to", number_of(OnnxType::float32)}});
}

/// MatMul would want the embeddings turned, which is a second copy in memory; Gemm takes them as they are.
std::string OnnxWeights::times_tied(const std::string& hidden, const std::string& ids) {
  const ModelConfig& config = model_.base.config;
  const std::string rows = graph_.add("Reshape", {hidden, graph_.integers({-1, config.hidden_size})});
  const std::string logits = graph_.add("Gemm", {rows, widened(kEmbeddings)}, {{"transB", std::int64_t{1}}});
  const std::string shape = graph_.add("Concat", {graph_.add("Shape", {ids}), graph_.integers({config.vocab_size})},
                                       {{"axis", std::int64_t{0}}});
  return graph_.add("Reshape", {logits, shape});
}

OnnxWeights::RopeTables OnnxWeights::rope_tables() {
  const ModelConfig& config = model_.base.config;
  const RopeTable table = make_rope_table(config.max_position_embeddings, config.head_dim, config.rope_theta, at::kCPU);
  const std::int64_t columns = config.head_dim / 2;
  return {plan("rope.cosine", computed_weight(values_of(table.cosine), columns, computes_in())),
          plan("rope.sine", computed_weight(values_of(table.sine), columns, computes_in()))};
}

}  // namespace tune
