#include "checkpoints/quantize/nf4_weights.h"

#include <algorithm>

#include "checkpoints/huggingface/convert.h"
#include "checkpoints/quantize/nf4.h"

namespace tune {

bool is_kept_in_nf4(const TensorInfo& info) {
  return info.shape.size() == 2 && info.name.starts_with("model.layers.") &&
         !info.name.ends_with(".block_sparse_moe.gate.weight");
}

void quantize_while_reading(const WeightSource& weights, const std::string& name, std::int64_t rows,
                            std::int64_t columns, std::span<std::byte> destination,
                            const std::function<void(std::span<const float>)>& seen) {
  constexpr std::int64_t kValuesAtATime = 1 << 20;
  // so many rows are whole blocks, whatever the columns
  const std::int64_t step = std::max<std::int64_t>(1, kValuesAtATime / columns / kNf4Block) * kNf4Block;
  Nf4Quantizer quantizer(rows * columns, destination);
  std::vector<float> values;
  for (std::int64_t first = 0; first < rows; first += step) {
    const std::int64_t count = std::min(step, rows - first);
    values.resize(static_cast<std::size_t>(count * columns));
    weights.read_rows(name, first, count, Dtype::fp32, std::as_writable_bytes(std::span(values)));
    seen(values);
    quantizer.add(values);
  }
  quantizer.finish();
}

std::shared_ptr<const Nf4Weights::Quantized> Nf4Weights::quantized(const TensorInfo& info) const {
  const std::lock_guard lock(mutex_);
  if (latest_ && latest_->name == info.name) return latest_;
  Quantized made{info.name, std::vector<std::byte>(static_cast<std::size_t>(Nf4Layout(element_count(info)).bytes))};
  quantize_while_reading(base_, info.name, info.shape[0], info.shape[1], made.bytes, [](std::span<const float>) {});
  latest_ = std::make_shared<const Quantized>(std::move(made));
  return latest_;
}

void Nf4Weights::read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const {
  const TensorInfo* info = base_.find(name);
  if (info == nullptr || !is_kept_in_nf4(*info)) return base_.read(name, dtype, destination);
  read_rows(name, 0, info->shape[0], dtype, destination);
}

void Nf4Weights::read_rows(std::string_view name, std::int64_t first, std::int64_t count, Dtype dtype,
                           std::span<std::byte> destination) const {
  const TensorInfo* info = base_.find(name);
  if (info == nullptr || !is_kept_in_nf4(*info)) return base_.read_rows(name, first, count, dtype, destination);
  const std::shared_ptr<const Quantized> matrix = quantized(*info);
  const std::int64_t columns = info->shape[1];
  std::vector<float> values(static_cast<std::size_t>(count * columns));
  dequantize_nf4(Nf4Layout(element_count(*info)), matrix->bytes.data(), first * columns, count * columns, Dtype::fp32,
                 reinterpret_cast<std::byte*>(values.data()));
  convert_elements("F32", std::as_bytes(std::span(values)), dtype, destination);
}

}  // namespace tune
