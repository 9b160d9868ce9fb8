#include "train/kernels/rope.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "train/kernels/cpu_rows.h"
#include "train/kernels/cuda.h"
#include "train/kernels/vector_math.h"

namespace tune {
namespace {

template <typename T>
struct Rotation {
  T* x;
  std::int64_t row_stride, heads, half;  // half of head_dim
  const std::int32_t* positions;
  const float *cosine, *sine;
  float direction;  // 1 forwards, -1 backwards
};

template <typename T>
TUNE_INLINE void rotate_rows(const Rotation<T>& r, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    const float* cosine = r.cosine + r.positions[i] * r.half;
    const float* sine = r.sine + r.positions[i] * r.half;
    for (std::int64_t head = 0; head < r.heads; ++head) {
      T* first = r.x + i * r.row_stride + head * 2 * r.half;
      T* second = first + r.half;
#pragma omp simd
      for (std::int64_t j = 0; j < r.half; ++j) {
        const float a = to_float(first[j]), b = to_float(second[j]), s = sine[j] * r.direction;
        first[j] = from_float<T>(a * cosine[j] - b * s);
        second[j] = from_float<T>(b * cosine[j] + a * s);
      }
    }
  }
}

TUNE_CPU_CLONES void rotate(const Rotation<float>& r, std::int64_t begin, std::int64_t end) {
  rotate_rows(r, begin, end);
}
TUNE_CPU_CLONES void rotate(const Rotation<c10::BFloat16>& r, std::int64_t begin, std::int64_t end) {
  rotate_rows(r, begin, end);
}
TUNE_CPU_CLONES void rotate(const Rotation<c10::Half>& r, std::int64_t begin, std::int64_t end) {
  rotate_rows(r, begin, end);
}

// In fp32 all the way, as transformers does: at position 4,000 a double would differ from it by 1e-4.
at::Tensor inverse_frequencies(std::int64_t head_dim, double theta, const at::Device& device) {
  const at::Tensor exponents =
      at::arange(0, head_dim, 2, at::TensorOptions(at::kFloat)) / static_cast<double>(head_dim);
  return at::reciprocal(at::pow(at::Scalar(theta), exponents)).to(device);
}

}  // namespace

RopeTable make_rope_table(std::int64_t positions, std::int64_t head_dim, double theta, const at::Device& device) {
  TUNE_CHECK(head_dim > 0 && head_dim % 2 == 0, "head_dim is {}; pairs need an even one", head_dim);
  const at::Tensor frequencies = inverse_frequencies(head_dim, theta, device);
  const at::Tensor angles = at::arange(positions, frequencies.options()).unsqueeze(1) * frequencies;
  return {.cosine = angles.cos(), .sine = angles.sin()};
}

void rope_(at::Tensor x, std::int64_t heads, std::int64_t head_dim, const at::Tensor& positions, const RopeTable& table,
           bool inverse) {
  TUNE_CHECK(x.dim() == 2 && x.stride(1) == 1 && x.size(1) >= heads * head_dim, "x has {} columns for {} heads of {}",
             x.size(-1), heads, head_dim);
  TUNE_CHECK(positions.scalar_type() == at::kInt && positions.dim() == 1 && positions.size(0) == x.size(0) &&
                 positions.is_contiguous(),
             "positions are not [tokens] int32");
  TUNE_CHECK(table.cosine.size(1) * 2 == head_dim && table.cosine.is_contiguous() && table.sine.is_contiguous(),
             "the table is for head_dim {}, not {}", table.cosine.size(1) * 2, head_dim);
  if (x.is_cuda()) return cuda::rope_(x, heads, head_dim, positions, table, inverse);
  for_type(x, [&](auto zero) {
    using T = decltype(zero);
    const Rotation<T> r{.x = x.data_ptr<T>(),
                        .row_stride = x.stride(0),
                        .heads = heads,
                        .half = head_dim / 2,
                        .positions = positions.const_data_ptr<std::int32_t>(),
                        .cosine = table.cosine.const_data_ptr<float>(),
                        .sine = table.sine.const_data_ptr<float>(),
                        .direction = inverse ? -1.0f : 1.0f};
    at::parallel_for(0, x.size(0), rows_per_task(heads * head_dim),
                     [&](std::int64_t begin, std::int64_t end) { rotate(r, begin, end); });
  });
}

at::Tensor rope_reference(const at::Tensor& x, std::int64_t heads, std::int64_t head_dim, const at::Tensor& positions,
                          double theta) {
  const at::Tensor angles =
      positions.to(at::kFloat).unsqueeze(1) * inverse_frequencies(head_dim, theta, x.device()).unsqueeze(0);
  const at::Tensor doubled = at::cat({angles, angles}, 1).unsqueeze(1);  // [tokens, 1, head_dim]
  const at::Tensor wide = x.to(at::promote_types(x.scalar_type(), at::kFloat)).view({x.size(0), heads, head_dim});
  const auto halves = wide.chunk(2, -1);
  const at::Tensor turned = at::cat({-halves[1], halves[0]}, -1);
  return (wide * doubled.cos() + turned * doubled.sin()).reshape(x.sizes()).to(x.scalar_type());
}

}  // namespace tune
