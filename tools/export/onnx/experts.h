#pragma once
#include <string>

#include "checkpoints/huggingface/model_config.h"
#include "tools/export/onnx/weights.h"

namespace tune {

/// SwiGLU of one MLP: down(silu(gate(x)) * up(x)), modules given by their full names.
std::string add_swiglu(const std::string& x, const std::string& gate, const std::string& up, const std::string& down,
                       OnnxWeights& weights, OnnxGraphBuilder& graph);

/// Mixtral's mixture of experts in operators of ai.onnx. x and result [batch, sequence, hidden_size]; module:
/// "model.layers.0.block_sparse_moe". Each expert computes the tokens that chose it and no others, so that a step of
/// one token reads the weights of num_experts_per_tok experts instead of all.
std::string add_experts(const std::string& x, const std::string& module, const ModelConfig& config,
                        OnnxWeights& weights, OnnxGraphBuilder& graph);

}  // namespace tune
