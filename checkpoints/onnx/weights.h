#pragma once
#include <memory>
#include <optional>

#include "checkpoints/onnx/adapter_reader.h"
#include "checkpoints/onnx/reader.h"
#include "checkpoints/weights.h"

namespace tune {

/// The weights of a decoder that `tune export` wrote, by their Hugging Face names, dequantised as they are read and,
/// with an adapter, merged with its factors. Error{Fault::data} for tensors that are stored in another way, and for an
/// adapter that is another graph's; a graph that takes one must be given one.
std::unique_ptr<WeightSource> open_onnx_weights(OnnxFile file, std::optional<OnnxAdapterFile> adapter);

}  // namespace tune
