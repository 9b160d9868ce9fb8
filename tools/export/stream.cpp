#include "tools/export/stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <future>
#include <thread>

#include "recipes/schema/error.h"

namespace tune {

namespace {

constexpr std::int64_t kBlockElements = 1 << 18;

[[noreturn]] void refuse(const TensorInfo& tensor, std::int64_t row, float value, const RowEncoding& encoding) {
  if (!std::isfinite(value))
    throw Error{Fault::data,
                {},
                fmt::format("tensor {} holds {} in row {}", tensor.name, value, row),
                "nothing was written; take an earlier checkpoint, or fetch the model again"};
  throw Error{Fault::data,
              {},
              fmt::format("tensor {} holds {} in row {}, too large for {}", tensor.name, value, row, encoding.type),
              "nothing was written; export as bf16 or f32"};
}

void require_storable(std::span<const float> rows, const TensorInfo& tensor, std::int64_t first, std::int64_t columns,
                      const RowEncoding& encoding) {
  const auto overflow = static_cast<float>(encoding.overflow);
  const auto bad = [&](float value) { return !(std::fabs(value) < overflow); };
  bool any = false;  // without branches, so that it vectorises
  for (const float value : rows) any |= bad(value);
  if (!any) return;
  const auto at = std::find_if(rows.begin(), rows.end(), bad) - rows.begin();
  refuse(tensor, first + at / columns, rows[static_cast<std::size_t>(at)], encoding);
}

std::vector<std::byte> encode_block(const WeightSource& weights, const TensorInfo& tensor, std::int64_t first,
                                    std::int64_t count, std::int64_t columns, const RowEncoding& encoding) {
  std::vector<float> rows(static_cast<std::size_t>(count * columns));
  weights.read_rows(tensor.name, first, count, Dtype::fp32, std::as_writable_bytes(std::span(rows)));
  require_storable(rows, tensor, first, columns, encoding);
  return encoding.encode(rows);
}

}  // namespace

void stream_tensor(const WeightSource& weights, const TensorInfo& tensor, std::int64_t row_multiple,
                   const RowEncoding& encoding, const TakePiece& take) {
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
    pending.push_back(std::async(std::launch::async, [&weights, &tensor, &encoding, first, count, columns] {
      return encode_block(weights, tensor, first, count, columns, encoding);
    }));
    if (pending.size() > workers) take_one();
  }
  while (!pending.empty()) take_one();
}

}  // namespace tune
