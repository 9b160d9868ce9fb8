#include "tools/export/stream.h"

#include <algorithm>
#include <deque>
#include <future>
#include <thread>

namespace tune {

namespace {

constexpr std::int64_t kBlockElements = 1 << 18;

std::vector<std::byte> encode_block(const WeightSource& weights, const TensorInfo& tensor, std::int64_t first,
                                    std::int64_t count, std::int64_t columns, const EncodeRows& encode) {
  std::vector<float> rows(static_cast<std::size_t>(count * columns));
  weights.read_rows(tensor.name, first, count, Dtype::fp32, std::as_writable_bytes(std::span(rows)));
  return encode(rows);
}

}  // namespace

void stream_tensor(const WeightSource& weights, const TensorInfo& tensor, std::int64_t row_multiple,
                   const EncodeRows& encode, const TakePiece& take) {
  const std::int64_t rows = tensor.shape[0], columns = element_count(tensor) / std::max<std::int64_t>(rows, 1);
  const std::int64_t multiples = kBlockElements / std::max<std::int64_t>(columns * row_multiple, 1);
  const std::int64_t block = row_multiple * std::max<std::int64_t>(multiples, 1);
  const std::size_t workers = std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, 16);
  std::deque<std::future<std::vector<std::byte>>> pending;  // a future of std::async waits when it is destroyed
  const auto take_one = [&] {
    const std::vector<std::byte> piece = pending.front().get();
    pending.pop_front();
    take(piece);
  };
  for (std::int64_t first = 0; first < rows; first += block) {
    const std::int64_t count = std::min(block, rows - first);
    pending.push_back(std::async(std::launch::async, [&weights, &tensor, &encode, first, count, columns] {
      return encode_block(weights, tensor, first, count, columns, encode);
    }));
    if (pending.size() > workers) take_one();
  }
  while (!pending.empty()) take_one();
}

}  // namespace tune
