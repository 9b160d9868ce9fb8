#include "train/model_hash.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "checkpoints/files/hash.h"
#include "checkpoints/huggingface/config.h"
#include "checkpoints/huggingface/convert.h"

namespace tune {
namespace {

Dtype stored_dtype(const TensorInfo& info) {
  for (const Dtype dtype : {Dtype::bf16, Dtype::fp16})
    if (info.dtype == dtype_name(dtype)) return dtype;
  return Dtype::fp32;  // and what is dequantised
}

// Every stride-th row and the last one.
std::string hash_of(const WeightSource& weights, const TensorInfo& info, std::int64_t stride) {
  std::string all = fmt::format("{} {} {};", info.name, info.dtype, fmt::join(info.shape, ","));
  if (info.shape.empty() || element_count(info) == 0) return all;
  const std::int64_t rows = info.shape[0], columns = element_count(info) / rows;
  const bool every = stride == 1 || info.shape.size() == 1;
  const std::int64_t at_once = every ? std::max<std::int64_t>((1 << 20) / columns, 1) : 1;
  const Dtype dtype = stored_dtype(info);
  std::vector<std::byte> bytes;
  const auto add = [&](std::int64_t first, std::int64_t count) {
    bytes.resize(static_cast<std::size_t>(count * columns) * element_bytes(dtype));
    weights.read_rows(info.name, first, count, dtype, bytes);
    all += xxh3_128(bytes);
  };
  for (std::int64_t row = 0; row < rows; row += every ? at_once : stride) add(row, std::min(at_once, rows - row));
  if (!every) add(rows - 1, 1);
  return xxh3_128(all);
}

}  // namespace

std::string hash_of(const BaseModel& base) {
  constexpr std::int64_t kWeights = 1'000'000'000;
  const std::vector<TensorInfo>& tensors = base.weights->tensors();
  std::int64_t total = 0;
  for (const TensorInfo& info : tensors) total += element_count(info);
  const std::int64_t stride = std::max<std::int64_t>((total + kWeights - 1) / kWeights, 1);
  std::vector<std::string> hashes(tensors.size());
  at::parallel_for(0, static_cast<std::int64_t>(tensors.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i)
      hashes[i] = hash_of(*base.weights, tensors[i], stride);
  });
  return xxh3_128(fmt::format("{} {}", write_model_config(base.config, Dtype::fp32), fmt::join(hashes, " ")));
}

}  // namespace tune
