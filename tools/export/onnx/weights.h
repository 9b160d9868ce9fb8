#pragma once
#include <string>
#include <vector>

#include "recipes/schema/recipe.h"
#include "tools/export/model.h"
#include "tools/export/onnx/builder.h"
#include "tools/export/onnx/planned_weight.h"
#include "tools/export/onnx/separate_adapter.h"

namespace tune {

/// Where the model's tensors enter a graph: decides how each is stored, and adds the nodes that bring it back to the
/// type that is computed in. That is fp16 for f16, else fp32: onnxruntime's CPU kernels know no bf16, and integers are
/// weights only. Norms and routers, which are small, are stored in the computing type. Of int4, embeddings and head
/// have 8 bits: they decide most, and Gather knows no INT4.
class OnnxWeights {
 public:
  /// with_microsoft: int8 and int4 for MatMulNBits; else for DequantizeLinear of ai.onnx.
  OnnxWeights(const ModelForExport& model, Quant quant, bool with_microsoft, OnnxGraphBuilder& graph);

  /// Linear layers get what the adapter adds to them. Not owned; outlives this.
  void set_adapter(SeparateAdapter* adapter) { adapter_ = adapter; }

  Dtype computes_in() const { return quant_ == Quant::f16 ? Dtype::fp16 : Dtype::fp32; }

  /// ids [...] int64 -> [..., hidden_size].
  std::string embed(const std::string& ids);

  /// x [..., in] -> [..., out]. module: "model.layers.0.mlp.up_proj".
  std::string linear(const std::string& x, const std::string& module);

  /// The same in the computing type, for a router.
  std::string exact_linear(const std::string& x, const std::string& module);

  /// Of a norm, [hidden_size], in the computing type.
  std::string vector(const std::string& module);

  /// hidden [batch, sequence, hidden_size] -> logits [batch, sequence, vocab_size] fp32. A tied head shares the
  /// embeddings' tensor unless they are quantised. ids: of the same batch and sequence.
  std::string head(const std::string& hidden, const std::string& ids);

  /// Of rotary embedding, [max_position_embeddings, head_dim / 2], in the computing type.
  struct RopeTables {
    std::string cosine, sine;
  };
  RopeTables rope_tables();

  /// All tensors that were asked for.
  const std::vector<PlannedWeight>& planned() const { return planned_; }

 private:
  const TensorInfo& find(const std::string& name) const;
  std::string plan(const std::string& name, PlannedWeight weight);  // returns name; its scales are name.scale
  bool is_integer() const { return quant_ == Quant::int8 || quant_ == Quant::int4; }
  std::string times_matrix(const std::string& x, const TensorInfo& source, const std::string& name, int bits);
  std::string times_nbits(const std::string& x, const TensorInfo& source, const std::string& name, int bits);
  std::string times_tied(const std::string& hidden, const std::string& ids);
  std::string widened(const std::string& stored);

  std::string adapted(const std::string& result, const std::string& x, const std::string& module);

  const ModelForExport& model_;
  Quant quant_;
  bool with_microsoft_;
  OnnxGraphBuilder& graph_;
  std::vector<TensorInfo> expected_;
  std::vector<PlannedWeight> planned_;
  SeparateAdapter* adapter_ = nullptr;
};

}  // namespace tune
