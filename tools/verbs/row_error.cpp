#include "tools/verbs/row_error.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include "checkpoints/huggingface/model_tensors.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

constexpr std::int64_t kElementsAtOnce = 1 << 18;

/// Squared lengths, a row each.
struct Lengths {
  std::vector<double> trained, difference;
};

void read_rows_of(const WeightSource& weights, const TensorInfo& tensor, std::int64_t first, std::int64_t count,
                  std::vector<float>& rows) {
  const auto bytes = std::as_writable_bytes(std::span(rows));
  if (tensor.shape.size() == 1)
    weights.read(tensor.name, Dtype::fp32, bytes);
  else
    weights.read_rows(tensor.name, first, count, Dtype::fp32, bytes);
}

Lengths lengths_of(const TensorInfo& tensor, const WeightSource& trained, const WeightSource& written) {
  const std::int64_t rows = tensor.shape.size() == 1 ? 1 : tensor.shape[0];  // a vector counts as a row
  const std::int64_t columns = element_count(tensor) / rows;
  Lengths lengths{std::vector<double>(static_cast<std::size_t>(rows)),
                  std::vector<double>(static_cast<std::size_t>(rows))};
  at::parallel_for(0, rows, std::max<std::int64_t>(kElementsAtOnce / columns, 1),
                   [&](std::int64_t begin, std::int64_t end) {
                     const std::int64_t at_once = std::max<std::int64_t>(kElementsAtOnce / columns, 1);
                     std::vector<float> before, after;
                     for (std::int64_t first = begin; first < end; first += at_once) {
                       const std::int64_t count = std::min(at_once, end - first);
                       before.resize(static_cast<std::size_t>(count * columns));
                       after.resize(before.size());
                       read_rows_of(trained, tensor, first, count, before);
                       read_rows_of(written, tensor, first, count, after);
                       for (std::size_t i = 0; i < before.size(); ++i) {
                         const auto row = static_cast<std::size_t>(first) + i / static_cast<std::size_t>(columns);
                         const double difference = static_cast<double>(before[i]) - after[i];
                         lengths.trained[row] += static_cast<double>(before[i]) * before[i];
                         lengths.difference[row] += difference * difference;
                       }
                     }
                   });
  return lengths;
}

}  // namespace

RowError largest_row_error(const ModelConfig& config, const WeightSource& trained, const WeightSource& written,
                           const std::string& where) {
  RowError largest;
  for (const TensorInfo& tensor : expected_tensors(config)) {
    const TensorInfo* other = written.find(tensor.name);
    if (other == nullptr || other->shape != tensor.shape)
      throw Error{Fault::verification,
                  {where},
                  fmt::format("has no {} of the trained shape", tensor.name),
                  "it is another model's"};
    const auto [before, difference] = lengths_of(tensor, trained, written);
    const double usual = std::accumulate(before.begin(), before.end(), 0.0) / static_cast<double>(before.size());
    for (std::size_t row = 0; row < before.size(); ++row) {
      if (difference[row] == 0) continue;
      double error = std::sqrt(difference[row] / std::max(before[row], usual * 1e-4));
      if (std::isnan(error)) error = INFINITY;
      if (error > largest.error) largest = {tensor.name, static_cast<std::int64_t>(row), error};
    }
  }
  return largest;
}

}  // namespace tune
