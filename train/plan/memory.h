#pragma once
#include <vector>

#include "train/plan/plan.h"

namespace tune {

/// What the optimizer keeps of all trained weights beside masters and gradients; norms, of which adamw_8bit keeps more,
/// are too few to count.
std::int64_t optimizer_state_bytes(const Recipe& recipe, const ModelConfig& config);

/// Ranks that share one copy of the model, or of what is trained of it: 1 where each has all of it.
std::int64_t model_ranks(const Recipe& recipe, std::int64_t ranks);
std::int64_t state_ranks(const Recipe& recipe, std::int64_t ranks);

/// fp8 products take multiples of so many rows and columns (train/kernels/fp8.h).
inline constexpr std::int64_t kFp8Multiple = 16;

/// Values of a layer's largest matrix.
std::int64_t largest_in_layer(const ModelConfig& config);

/// Bytes a token and layer that the backward pass needs of the forward pass: what LayerTape (train/model/layer.h)
/// holds.
std::int64_t tape_bytes_per_token(const ModelConfig& config, const AdapterOptions& adapter, std::int64_t element_bytes);

/// What a process holds on a CUDA device beside its tensors: the driver's context, its and the libraries' kernels. An
/// estimate, it differs from card to card; the allocator, whose peak is what is measured, does not know of it.
inline constexpr std::int64_t kCudaContextBytes = std::int64_t{512} << 20;

/// Weights in NF4 are dequantised so much at a time, or one block a row where that is more (train/kernels/nf4.h).
inline constexpr std::int64_t kNf4TileBytes = std::int64_t{32} << 20;

/// Gradients of several ranks travel as they lie from this size on, smaller ones in buckets
/// (train/parallel/gradient_sum.h): how much those hold.
inline constexpr std::int64_t kLargeGradientBytes = 1 << 20;
std::int64_t gradient_bucket_bytes(const Recipe& recipe, const ModelConfig& config);

/// What lies in memory at the moment of the peak: at the first layer to go backward (the last one of the model), or in
/// an evaluation where that needs more. On CUDA the device's memory; what lies in the host's is not counted.
std::vector<MemoryItem> memory_items(const Recipe& recipe, const ModelConfig& config, const Plan& plan);

}  // namespace tune
