#pragma once
#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <vector>

#include "checkpoints/huggingface/convert.h"
#include "checkpoints/onnx/onnx.h"
#include "checkpoints/weights.h"

namespace tune {

/// Takes the bytes of one of a PlannedWeight's tensors, piece by piece, one tensor after the other.
using TakeTensorPiece = std::function<void(std::size_t tensor, std::span<const std::byte> piece)>;

/// Tensors of the file that are made of one tensor of the model, and how their bytes are made when it is their turn.
struct PlannedWeight {
  std::vector<OnnxTensor> tensors;  // values, then scales if any: type and dims; as `produce` hands them over
  std::function<void(const TakeTensorPiece& take)> produce;
};

// The ways to store a tensor. `source` has the model's name and shape; the caller names what is in the file. Each holds
// a few MB while it produces, those that say "transposed" the tensor as it is written besides. While producing,
// Error{Fault::data} names tensor and row of a value that is no number, or none in the type.

/// One tensor, shape and order as in the model.
PlannedWeight plain_weight(const WeightSource& weights, const TensorInfo& source, Dtype dtype);

/// One tensor [in, out] of a matrix [out, in]; transposed.
PlannedWeight transposed_weight(const WeightSource& weights, const TensorInfo& source, Dtype dtype);

/// INT8 [rows, columns] and a FLOAT scale [rows, 1].
PlannedWeight int8_rows_weight(const WeightSource& weights, const TensorInfo& source);

/// INT8 [in, out] and a FLOAT scale [out]; transposed.
PlannedWeight int8_transposed_weight(const WeightSource& weights, const TensorInfo& source);

/// INT4 [in, out] and a FLOAT scale [blocks of in, out]; transposed.
PlannedWeight int4_transposed_weight(const WeightSource& weights, const TensorInfo& source);

/// What MatMulNBits takes: UINT8 [out, blocks of in, bytes a block] and a FLOAT scale [out, blocks of in].
PlannedWeight nbits_weight(const WeightSource& weights, const TensorInfo& source, int bits);

/// A table that was computed, [rows, columns] fp32, stored as `dtype`.
PlannedWeight computed_weight(std::vector<float> values, std::int64_t columns, Dtype dtype);

/// FLOAT, FLOAT16 or BFLOAT16.
OnnxType onnx_type_of(Dtype dtype);

/// Writes the planned tensors into the data file `file` of a folder that is being filled, small ones into their
/// descriptions instead, and appends all descriptions to model.initializers. Error{Fault::running} when the disk
/// refuses or is too small.
void write_weights(const std::vector<PlannedWeight>& weights, const std::filesystem::path& file, OnnxModel& model);

}  // namespace tune
