#include "train/kernels/attention_cpu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "train/kernels/cpu_rows.h"
#include "train/kernels/small_gemm.h"
#include "train/kernels/vector_math.h"

// One task is a document and a key/value head, in the forward pass a stretch of its queries. A task widens its keys and
// values to fp32 once, for all query heads of the group, and walks over blocks of queries; scores exist for one block
// only. ATen's kernel costs 3 x as much at 512 tokens a document and 10 x at 130, where its set-up dominates.

namespace tune {
namespace {

using std::int64_t;
constexpr int64_t kBlock = 48;            // queries that share one pass over the keys; whole tiles of small_gemm
constexpr int64_t kPanel = 64;            // keys side by side in a transposed panel
constexpr int64_t kQueriesPerTask = 480;  // longer documents give several forward tasks

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

struct Task {
  int64_t document_start, kv_head;
  int64_t query_begin, query_end, key_begin;  // inside the document; keys end where the queries end
  int64_t keys() const { return query_end - key_begin; }
};

TUNE_CPU_CLONES void widen(const float* from, float* to, int64_t n, float scale) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) to[j] = from[j] * scale;
}
TUNE_CPU_CLONES void widen(const c10::BFloat16* from, float* to, int64_t n, float scale) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) to[j] = to_float(from[j]) * scale;
}
TUNE_CPU_CLONES void widen(const c10::Half* from, float* to, int64_t n, float scale) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) to[j] = to_float(from[j]) * scale;
}
TUNE_CPU_CLONES void narrow(const float* from, float* to, int64_t n, float scale) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) to[j] = from[j] * scale;
}
TUNE_CPU_CLONES void narrow(const float* from, c10::BFloat16* to, int64_t n, float scale) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) to[j] = from_float<c10::BFloat16>(from[j] * scale);
}
TUNE_CPU_CLONES void narrow(const float* from, c10::Half* to, int64_t n, float scale) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) to[j] = from_float<c10::Half>(from[j] * scale);
}

// rows [n, width] -> panels [n / kPanel][width][kPanel]; columns after the last row are left zero.
TUNE_CPU_CLONES void transpose_to_panels(const float* rows, int64_t n, int64_t width, float* panels) {
  std::fill_n(panels, round_up(n, kPanel) * width, 0.0f);
  for (int64_t first = 0; first < n; first += kPanel) {
    const int64_t count = std::min(kPanel, n - first);
    for (int64_t p = 0; p < width; ++p) {
      float* to = panels + first * width + p * kPanel;
      for (int64_t j = 0; j < count; ++j) to[j] = rows[(first + j) * width + p];
    }
  }
}

// Scores [begin, end) become e^(score - largest), the others up to `columns` zero. -> {largest, sum}
struct RowSum {
  float largest, sum;
};
TUNE_CPU_CLONES RowSum exponentiate(float* scores, int64_t begin, int64_t end, int64_t columns) {
  float largest = -std::numeric_limits<float>::infinity(), sum = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t j = begin; j < end; ++j) largest = scores[j] > largest ? scores[j] : largest;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = begin; j < end; ++j) {
    scores[j] = fast_exp(scores[j] - largest);
    sum += scores[j];
  }
  std::fill(scores, scores + begin, 0.0f);
  std::fill(scores + end, scores + columns, 0.0f);
  return {largest, sum};
}

// scores -> weights = e^(score - log_sum_exp), d_weights -> d_scores = weights (d_weights - delta); zero outside.
TUNE_CPU_CLONES void differentiate(float* scores, float* d_weights, int64_t begin, int64_t end, int64_t columns,
                                   float log_sum_exp, float delta) {
#pragma omp simd
  for (int64_t j = begin; j < end; ++j) {
    scores[j] = fast_exp(scores[j] - log_sum_exp);
    d_weights[j] = scores[j] * (d_weights[j] - delta);
  }
  for (float* row : {scores, d_weights}) {
    std::fill(row, row + begin, 0.0f);
    std::fill(row + end, row + columns, 0.0f);
  }
}

TUNE_CPU_CLONES float dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) sum += a[j] * b[j];
  return sum;
}

// Bump allocator over one worker's share of the scratch tensor.
class Scratch {
 public:
  explicit Scratch(float* memory) : next_(memory) {}
  float* take(int64_t floats) { return std::exchange(next_, next_ + floats); }

 private:
  float* next_;
};

template <typename T>
class Attention {
 public:
  Attention(const at::Tensor& qkv, const std::vector<std::int32_t>& document_starts, const AttentionShape& shape)
      : qkv_(qkv.const_data_ptr<T>()),
        starts_(document_starts),
        shape_(shape),
        tokens_(qkv.size(0)),
        row_((shape.query_heads + 2 * shape.kv_heads) * shape.head_dim),
        group_(shape.query_heads / shape.kv_heads),
        width_(round_up(shape.head_dim, 16)),
        scale_(1.0f / std::sqrt(static_cast<float>(shape.head_dim))) {}

  void forward(T* out, float* log_sum_exp) {
    run(
        tasks(kQueriesPerTask),
        [](int64_t keys, int64_t width) { return 2 * keys * width + kBlock * (keys + 2 * width); },
        [&](const Task& task, Scratch scratch) { forward_task(task, scratch, out, log_sum_exp); });
  }

  void backward(const T* d_out, const T* out, const float* log_sum_exp, T* d_qkv) {
    run(
        tasks(std::numeric_limits<std::int32_t>::max()),
        [](int64_t keys, int64_t width) { return 6 * keys * width + kBlock * (4 * width + 2 * kPanel); },
        [&](const Task& task, Scratch scratch) { backward_task(task, scratch, d_out, out, log_sum_exp, d_qkv); });
  }

 private:
  std::vector<Task> tasks(int64_t queries_per_task) const {
    std::vector<Task> all;
    for (std::size_t i = 0; i + 1 < starts_.size(); ++i) {
      const int64_t length = starts_[i + 1] - starts_[i];
      if (length == 0) continue;
      const int64_t pieces = (length + queries_per_task - 1) / queries_per_task;
      const int64_t step = round_up((length + pieces - 1) / pieces, kBlock);
      for (int64_t begin = 0; begin < length; begin += step)
        for (int64_t head = 0; head < shape_.kv_heads; ++head)
          all.push_back({starts_[i], head, begin, std::min(begin + step, length), first_key(begin)});
    }
    std::stable_sort(all.begin(), all.end(), [](const Task& a, const Task& b) { return a.keys() > b.keys(); });
    return all;
  }

  // Longest task first, each to whoever is free: every task owns what it writes, so the bits do not depend on that.
  template <typename Floats, typename Work>
  void run(const std::vector<Task>& tasks, Floats floats, Work work) const {
    if (tasks.empty()) return;
    const int64_t share = round_up(floats(round_up(tasks.front().keys(), kPanel), width_), 16);
    const int64_t workers = std::min<int64_t>(at::get_num_threads(), static_cast<int64_t>(tasks.size()));
    const at::Tensor memory = at::empty({workers, share}, at::kFloat);
    std::atomic<std::size_t> next = 0;
    at::parallel_for(0, workers, 1, [&](int64_t worker, int64_t) {
      for (std::size_t i = next++; i < tasks.size(); i = next++)
        work(tasks[i], Scratch(memory.data_ptr<float>() + worker * share));
    });
  }

  int64_t first_key(int64_t query) const {
    return shape_.window > 0 ? std::max<int64_t>(0, query - shape_.window + 1) : 0;
  }
  int64_t query_column(int64_t head) const { return head * shape_.head_dim; }
  int64_t key_column(int64_t kv_head) const { return (shape_.query_heads + kv_head) * shape_.head_dim; }
  int64_t value_column(int64_t kv_head) const { return key_column(shape_.kv_heads + kv_head); }

  // head_dim columns of n rows, widened, scaled and padded with zeros to width_.
  void load(const T* from, int64_t row, int64_t n, float scale, float* to) const {
    for (int64_t i = 0; i < n; ++i) {
      widen(from + i * row, to + i * width_, shape_.head_dim, scale);
      std::fill(to + i * width_ + shape_.head_dim, to + (i + 1) * width_, 0.0f);
    }
  }

  void forward_task(const Task& task, Scratch scratch, T* out, float* log_sum_exp) const {
    const int64_t padded = round_up(task.keys(), kPanel);
    float *values = scratch.take(padded * width_), *panels = scratch.take(padded * width_);
    const T* keys_row = qkv_ + (task.document_start + task.key_begin) * row_;
    load(keys_row + key_column(task.kv_head), row_, task.keys(), 1.0f, values);
    transpose_to_panels(values, task.keys(), width_, panels);
    load(keys_row + value_column(task.kv_head), row_, task.keys(), 1.0f, values);
    float *q = scratch.take(kBlock * width_), *result = scratch.take(kBlock * width_),
          *scores = scratch.take(kBlock * padded);
    for (int64_t head = task.kv_head * group_; head < (task.kv_head + 1) * group_; ++head) {
      for (int64_t begin = task.query_begin; begin < task.query_end; begin += kBlock) {
        const int64_t end = std::min(begin + kBlock, task.query_end), n = end - begin;
        const int64_t row = task.document_start + begin;
        // first and columns count keys from the panel in which the block's first visible key lies
        const int64_t first = (first_key(begin) - task.key_begin) / kPanel * kPanel;
        const int64_t columns = end - task.key_begin - first;
        load(qkv_ + row * row_ + query_column(head), row_, n, scale_, q);
        for (int64_t panel = 0; panel < columns; panel += kPanel)
          small_gemm({.m = n,
                      .n = round_up(std::min(kPanel, columns - panel), 16),
                      .k = shape_.head_dim,
                      .a = q,
                      .a_row = width_,
                      .a_column = 1,
                      .b = panels + (first + panel) * width_,
                      .b_row = kPanel,
                      .c = scores + panel,
                      .c_row = padded});
        float inverse[kBlock];
        for (int64_t i = 0; i < n; ++i) {
          const int64_t query = begin + i, offset = task.key_begin + first;
          const RowSum row_sum =
              exponentiate(scores + i * padded, first_key(query) - offset, query + 1 - offset, columns);
          inverse[i] = 1.0f / row_sum.sum;
          log_sum_exp[head * tokens_ + row + i] = row_sum.largest + std::log(row_sum.sum);
        }
        small_gemm({.m = n,
                    .n = width_,
                    .k = columns,
                    .a = scores,
                    .a_row = padded,
                    .a_column = 1,
                    .b = values + first * width_,
                    .b_row = width_,
                    .c = result,
                    .c_row = width_});
        const int64_t out_row = shape_.query_heads * shape_.head_dim;
        for (int64_t i = 0; i < n; ++i)
          narrow(result + i * width_, out + (row + i) * out_row + query_column(head), shape_.head_dim, inverse[i]);
      }
    }
  }

  struct BackwardBlocks {
    float *keys, *key_panels, *value_panels, *d_keys, *d_values;  // of the whole document
    float *q, *d_out, *out, *d_q, *scores, *d_weights;            // of a block of queries
  };

  void backward_task(const Task& task, Scratch scratch, const T* d_out, const T* out, const float* log_sum_exp,
                     T* d_qkv) const {
    const int64_t n = task.keys(), padded = round_up(n, kPanel);
    const auto document = [&] { return scratch.take(padded * width_); };
    const auto block = [&](int64_t columns) { return scratch.take(kBlock * columns); };
    BackwardBlocks b{.keys = document(),
                     .key_panels = document(),
                     .value_panels = document(),
                     .d_keys = document(),
                     .d_values = document(),
                     .q = block(width_),
                     .d_out = block(width_),
                     .out = block(width_),
                     .d_q = block(width_),
                     .scores = block(kPanel),
                     .d_weights = block(kPanel)};
    const T* rows = qkv_ + task.document_start * row_;
    load(rows + value_column(task.kv_head), row_, n, 1.0f, b.keys);
    transpose_to_panels(b.keys, n, width_, b.value_panels);
    load(rows + key_column(task.kv_head), row_, n, 1.0f, b.keys);
    transpose_to_panels(b.keys, n, width_, b.key_panels);
    std::fill_n(b.d_keys, padded * width_, 0.0f);
    std::fill_n(b.d_values, padded * width_, 0.0f);
    for (int64_t head = task.kv_head * group_; head < (task.kv_head + 1) * group_; ++head)
      for (int64_t begin = 0; begin < n; begin += kBlock)
        backward_block(task, b, head, begin, std::min(begin + kBlock, n), d_out, out, log_sum_exp, d_qkv);
    T* d_rows = d_qkv + task.document_start * row_;
    for (int64_t j = 0; j < n; ++j) {
      narrow(b.d_keys + j * width_, d_rows + j * row_ + key_column(task.kv_head), shape_.head_dim, 1.0f);
      narrow(b.d_values + j * width_, d_rows + j * row_ + value_column(task.kv_head), shape_.head_dim, 1.0f);
    }
  }

  void backward_block(const Task& task, const BackwardBlocks& b, int64_t head, int64_t begin, int64_t end,
                      const T* d_out, const T* out, const float* log_sum_exp, T* d_qkv) const {
    const int64_t n = end - begin, row = task.document_start + begin, out_row = shape_.query_heads * shape_.head_dim;
    load(qkv_ + row * row_ + query_column(head), row_, n, scale_, b.q);
    load(d_out + row * out_row + query_column(head), out_row, n, 1.0f, b.d_out);
    load(out + row * out_row + query_column(head), out_row, n, 1.0f, b.out);
    float delta[kBlock];
    for (int64_t i = 0; i < n; ++i) delta[i] = dot(b.d_out + i * width_, b.out + i * width_, shape_.head_dim);
    std::fill_n(b.d_q, n * width_, 0.0f);
    for (int64_t panel = first_key(begin) / kPanel * kPanel; panel < end; panel += kPanel) {
      const int64_t columns = std::min(kPanel, end - panel);
      const SmallGemm scores{.m = n,
                             .n = round_up(columns, 16),
                             .k = shape_.head_dim,
                             .a = b.q,
                             .a_row = width_,
                             .a_column = 1,
                             .b = b.key_panels + panel * width_,
                             .b_row = kPanel,
                             .c = b.scores,
                             .c_row = kPanel};
      small_gemm(scores);
      SmallGemm d_weights = scores;
      d_weights.a = b.d_out, d_weights.b = b.value_panels + panel * width_, d_weights.c = b.d_weights;
      small_gemm(d_weights);
      for (int64_t i = 0; i < n; ++i) {
        const int64_t query = begin + i;
        const int64_t low = std::clamp<int64_t>(first_key(query) - panel, 0, columns);
        const int64_t high = std::clamp<int64_t>(query + 1 - panel, low, columns);
        differentiate(b.scores + i * kPanel, b.d_weights + i * kPanel, low, high, columns,
                      log_sum_exp[head * tokens_ + row + i], delta[i]);
      }
      const SmallGemm d_values{.m = columns,
                               .n = width_,
                               .k = n,
                               .a = b.scores,
                               .a_row = 1,
                               .a_column = kPanel,
                               .b = b.d_out,
                               .b_row = width_,
                               .c = b.d_values + panel * width_,
                               .c_row = width_,
                               .add = true};
      small_gemm(d_values);
      SmallGemm d_keys = d_values;
      d_keys.a = b.d_weights, d_keys.b = b.q, d_keys.c = b.d_keys + panel * width_;
      small_gemm(d_keys);
      small_gemm({.m = n,
                  .n = width_,
                  .k = columns,
                  .a = b.d_weights,
                  .a_row = kPanel,
                  .a_column = 1,
                  .b = b.keys + panel * width_,
                  .b_row = width_,
                  .c = b.d_q,
                  .c_row = width_,
                  .add = true});
    }
    for (int64_t i = 0; i < n; ++i)
      narrow(b.d_q + i * width_, d_qkv + (row + i) * row_ + query_column(head), shape_.head_dim, scale_);
  }

  const T* qkv_;
  const std::vector<std::int32_t>& starts_;
  AttentionShape shape_;
  int64_t tokens_, row_, group_, width_;  // row_: columns of qkv; width_: head_dim, padded for small_gemm
  float scale_;
};

}  // namespace

AttentionResult attention_cpu(const at::Tensor& qkv, const std::vector<std::int32_t>& document_starts,
                              const AttentionShape& shape) {
  AttentionResult result{at::empty({qkv.size(0), shape.query_heads * shape.head_dim}, qkv.options()),
                         at::empty({shape.query_heads, qkv.size(0)}, qkv.options().dtype(at::kFloat))};
  for_type(qkv, [&](auto zero) {
    using T = decltype(zero);
    Attention<T>(qkv, document_starts, shape)
        .forward(result.out.template data_ptr<T>(), result.log_sum_exp.template data_ptr<float>());
  });
  return result;
}

at::Tensor attention_backward_cpu(const at::Tensor& d_out, const at::Tensor& qkv, const AttentionResult& forward,
                                  const std::vector<std::int32_t>& document_starts, const AttentionShape& shape) {
  at::Tensor d_qkv = at::empty_like(qkv);
  for_type(qkv, [&](auto zero) {
    using T = decltype(zero);
    Attention<T>(qkv, document_starts, shape)
        .backward(d_out.const_data_ptr<T>(), forward.out.template const_data_ptr<T>(),
                  forward.log_sum_exp.template const_data_ptr<float>(), d_qkv.data_ptr<T>());
  });
  return d_qkv;
}

}  // namespace tune
