#pragma once
#include <cmath>
#include <cstddef>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "checkpoints/weights.h"

namespace tune {

/// How numbers are stored.
struct RowEncoding {
  std::string_view type;       // "F16", for messages
  double overflow = INFINITY;  // the least magnitude that it can't hold

  /// fp32 rows of a tensor -> their stored bytes. May change the rows. Called on several threads at once.
  std::function<std::vector<std::byte>(std::span<float> rows)> encode;
};

/// Takes the bytes of a tensor piece by piece, in order, on the caller's thread.
using TakePiece = std::function<void(std::span<const std::byte> piece)>;

/// Reads a tensor by blocks of rows on all cores, encodes each block and hands the pieces over in order. Holds a few
/// blocks of about 1 MB at a time, however large the tensor is. Every block but the last has a multiple of row_multiple
/// rows. The first exception of any thread is thrown here: among them Error{Fault::data} naming tensor and row of a
/// value that is no number, or none in the wanted type.
void stream_tensor(const WeightSource& weights, const TensorInfo& tensor, std::int64_t row_multiple,
                   const RowEncoding& encoding, const TakePiece& take);

}  // namespace tune
