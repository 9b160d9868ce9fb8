#include "train/kernels/cross_entropy.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>
#include <limits>

#include "train/kernels/cpu_rows.h"
#include "train/kernels/cuda.h"
#include "train/kernels/matmul.h"
#include "train/kernels/vector_math.h"

namespace tune {
namespace {

template <typename T>
struct Rows {
  T* logits;
  const std::int64_t* labels;
  float* losses;
  std::int64_t vocab;
  float scale;
  bool want_gradient;
};

template <typename T>
TUNE_INLINE void pass(const Rows<T>& r, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    T* logits = r.logits + i * r.vocab;
    const float at_label = to_float(logits[r.labels[i]]);
    float largest = -std::numeric_limits<float>::infinity(), sum = 0;
#pragma omp simd reduction(max : largest)
    for (std::int64_t j = 0; j < r.vocab; ++j) {
      const float x = to_float(logits[j]);
      largest = x > largest ? x : largest;
    }
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = 0; j < r.vocab; ++j) sum += fast_exp(to_float(logits[j]) - largest);
    r.losses[i] = largest - at_label + std::log(sum);
    if (!r.want_gradient) continue;
    const float factor = r.scale / sum;
#pragma omp simd
    for (std::int64_t j = 0; j < r.vocab; ++j)
      logits[j] = from_float<T>(fast_exp(to_float(logits[j]) - largest) * factor);
    logits[r.labels[i]] = from_float<T>((fast_exp(at_label - largest) / sum - 1.0f) * r.scale);
  }
}

TUNE_CPU_CLONES void cross_entropy_rows(const Rows<float>& r, std::int64_t begin, std::int64_t end) {
  pass(r, begin, end);
}
TUNE_CPU_CLONES void cross_entropy_rows(const Rows<c10::BFloat16>& r, std::int64_t begin, std::int64_t end) {
  pass(r, begin, end);
}
TUNE_CPU_CLONES void cross_entropy_rows(const Rows<c10::Half>& r, std::int64_t begin, std::int64_t end) {
  pass(r, begin, end);
}

// -> losses [rows] fp32; with want_gradient the logits become (softmax - onehot(label)) * scale.
at::Tensor cross_entropy_(at::Tensor& logits, const at::Tensor& labels, double scale, bool want_gradient) {
  if (logits.is_cuda()) return cuda::cross_entropy_(logits, labels, scale, want_gradient);
  at::Tensor losses = at::empty({logits.size(0)}, logits.options().dtype(at::kFloat));
  for_type(logits, [&](auto zero) {
    using T = decltype(zero);
    const Rows<T> r{.logits = logits.data_ptr<T>(),
                    .labels = labels.const_data_ptr<std::int64_t>(),
                    .losses = losses.data_ptr<float>(),
                    .vocab = logits.size(1),
                    .scale = static_cast<float>(scale),
                    .want_gradient = want_gradient};
    at::parallel_for(0, logits.size(0), 1,
                     [&](std::int64_t begin, std::int64_t end) { cross_entropy_rows(r, begin, end); });
  });
  return losses;
}

void check(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels, const at::Tensor& d_weight) {
  TUNE_CHECK(hidden.dim() == 2 && weight.dim() == 2 && hidden.size(1) == weight.size(1) && hidden.is_contiguous(),
             "hidden [{}, {}] and weight [{}, {}]", hidden.size(0), hidden.size(-1), weight.size(0), weight.size(-1));
  TUNE_CHECK(hidden.scalar_type() == weight.scalar_type(), "hidden and weight differ in type");
  TUNE_CHECK(labels.scalar_type() == at::kLong && labels.dim() == 1 && labels.size(0) == hidden.size(0) &&
                 labels.is_contiguous(),
             "labels are not [rows] int64");
  TUNE_CHECK(!d_weight.defined() || (d_weight.scalar_type() == at::kFloat && d_weight.sizes() == weight.sizes()),
             "d_weight is not [vocab, hidden] fp32");
}

void add_d_weight(at::Tensor& d_weight, const at::Tensor& d_logits, const at::Tensor& hidden) {
  if (hidden.scalar_type() == at::kFloat) return add_matmul_(d_weight, d_logits.t(), hidden, 1.0);
  d_weight.add_(matmul_tn(d_logits, hidden));
}

}  // namespace

CrossEntropyResult linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels,
                                        double scale, bool want_gradient, at::Tensor d_weight,
                                        std::int64_t chunk_rows) {
  check(hidden, weight, labels, d_weight);
  // few rows stay in a CPU's cache; d_hidden [chunk, hidden] of 256 rows would leave half of a GPU idle
  if (chunk_rows == 0) chunk_rows = hidden.is_cuda() ? 1024 : 256;
  const std::int64_t rows = hidden.size(0), chunk = std::min(rows, chunk_rows);
  CrossEntropyResult result;
  if (want_gradient) result.d_hidden = at::empty_like(hidden);
  const at::Tensor buffer = at::empty({chunk, weight.size(0)}, hidden.options());
  result.losses = at::empty({rows}, hidden.options().dtype(at::kFloat));
  for (std::int64_t first = 0; first < rows; first += chunk) {
    const std::int64_t count = std::min(chunk, rows - first);
    const at::Tensor x = hidden.narrow(0, first, count);
    at::Tensor logits = buffer.narrow(0, 0, count);
    matmul_into_(logits, x, weight.t());
    result.losses.narrow(0, first, count)
        .copy_(cross_entropy_(logits, labels.narrow(0, first, count), scale, want_gradient));
    if (!want_gradient) continue;
    at::Tensor d_hidden = result.d_hidden.narrow(0, first, count);
    matmul_into_(d_hidden, logits, weight);
    if (d_weight.defined()) add_d_weight(d_weight, logits, x);
  }
  result.loss_sum = result.losses.sum(at::kDouble).item<double>();
  return result;
}

at::Tensor linear_cross_entropy_reference(const at::Tensor& hidden, const at::Tensor& weight,
                                          const at::Tensor& labels) {
  const at::Tensor logits = at::matmul(hidden, weight.t());
  const at::Tensor log_probabilities =
      at::log_softmax(logits.to(at::promote_types(logits.scalar_type(), at::kFloat)), -1);
  return -log_probabilities.gather(1, labels.unsqueeze(1)).sum();
}

}  // namespace tune
