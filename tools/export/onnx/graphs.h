#pragma once
#include "checkpoints/huggingface/model_config.h"
#include "tools/export/onnx/builder.h"
#include "tools/export/onnx/weights.h"

namespace tune {

// The decoder as a graph, one function a flavour. B batch, S new tokens, P past ones, D head_dim, Hk key heads.
//   input_ids, attention_mask          int64 [B, S], [B, P + S]; the mask is 0 where a row has padding
//   past_key_values.N.key and .value   [B, Hk, P, D] in the computing type, keys rotated; P may be 0
//   logits                             fp32 [B, S, vocab_size]
//   present.N.key and .value           [B, Hk, P + S, D]

/// Operators of ai.onnx only, from opset 17 on; optimum's names, so position_ids, int64 [B, S], too. A row may be
/// padded on either side.
void build_standard_graph(const ModelConfig& config, OnnxWeights& weights, OnnxGraphBuilder& graph);

/// With onnxruntime's own operators (com.microsoft), for onnxruntime-genai. Positions are counted by
/// GroupQueryAttention, so a row must be padded on the right. No experts (TUNE_CHECK).
void build_genai_graph(const ModelConfig& config, OnnxWeights& weights, OnnxGraphBuilder& graph);

}  // namespace tune
