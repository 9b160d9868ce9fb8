#pragma once
#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "checkpoints/weights.h"

namespace tune {

/// fp32 rows of a tensor -> their stored bytes. May change the rows. Called on several threads at once.
using EncodeRows = std::function<std::vector<std::byte>(std::span<float> rows)>;

/// Takes the bytes of a tensor piece by piece, in order, on the caller's thread.
using TakePiece = std::function<void(std::span<const std::byte> piece)>;

/// Reads a tensor by blocks of rows on all cores, encodes each block and hands the pieces over in order. Holds a few
/// blocks of about 1 MB at a time, however large the tensor is. Every block but the last has a multiple of row_multiple
/// rows. The first exception of any thread is thrown here.
void stream_tensor(const WeightSource& weights, const TensorInfo& tensor, std::int64_t row_multiple,
                   const EncodeRows& encode, const TakePiece& take);

}  // namespace tune
