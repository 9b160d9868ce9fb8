#pragma once
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoints/weights.h"

namespace tune {

/// Whether adapter.type qlora keeps that tensor in NF4: the linear layers of the decoder, but no router.
bool is_kept_in_nf4(const TensorInfo& info);

/// Quantises a matrix [rows, columns] while it is read, a few rows at a time, into Nf4Layout(rows * columns).bytes.
/// `seen` is called with what was read, as fp32. Errors as WeightSource::read().
void quantize_while_reading(const WeightSource& weights, const std::string& name, std::int64_t rows,
                            std::int64_t columns, std::span<std::byte> destination,
                            const std::function<void(std::span<const float>)>& seen);

/// A base model as QLoRA trains on it: quantised to NF4 and dequantised again, as fp32, rounded once to the wanted
/// dtype. Only the tensor that was read last is held, in NF4. The base must outlive it. Thread-safe.
class Nf4Weights : public WeightSource {
 public:
  explicit Nf4Weights(const WeightSource& base) : base_(base) {}
  const std::vector<TensorInfo>& tensors() const override { return base_.tensors(); }
  void read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const override;
  void read_rows(std::string_view name, std::int64_t first, std::int64_t count, Dtype dtype,
                 std::span<std::byte> destination) const override;

 private:
  struct Quantized {
    std::string name;
    std::vector<std::byte> bytes;
  };

  std::shared_ptr<const Quantized> quantized(const TensorInfo& info) const;

  const WeightSource& base_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const Quantized> latest_;
};

}  // namespace tune
