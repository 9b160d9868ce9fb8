#pragma once
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "checkpoints/peft/adapter_folder.h"
#include "checkpoints/weights.h"

namespace tune {

/// PEFT's key of a factor is kAdapterPrefix + module + kFactorA or kFactorB.
inline constexpr std::string_view kAdapterPrefix = "base_model.model.", kFactorA = ".lora_A.weight",
                                  kFactorB = ".lora_B.weight";

/// One tensor of an adapter, fp32. Error{Fault::data} when it holds NaN or infinity.
std::vector<float> read_factor(const AdapterFolder& adapter, const std::string& name);

/// A base model with a LoRA adapter folded in: W + scale * B A, computed in fp32 and rounded once to the wanted dtype.
/// Nothing is held but the factors of one matrix. Base and adapter must outlive it. Thread-safe.
class MergedWeights : public WeightSource {
 public:
  /// Error{Fault::data} naming the tensors of the adapter that fit no matrix of the base.
  MergedWeights(const WeightSource& base, const AdapterFolder& adapter, const std::string& adapter_path);

  const std::vector<TensorInfo>& tensors() const override { return base_.tensors(); }
  void read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const override;
  void read_rows(std::string_view name, std::int64_t first, std::int64_t count, Dtype dtype,
                 std::span<std::byte> destination) const override;

 private:
  /// A [rank, columns] and B [rows, rank] of one matrix, fp32.
  struct Factors {
    std::string name;
    std::vector<float> a, b;
  };

  std::shared_ptr<const Factors> factors(const std::string& name) const;

  const WeightSource& base_;
  const AdapterFolder& adapter_;
  std::unordered_map<std::string, std::string> module_of_;  // base tensor -> the adapter's prefix of its factors
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const Factors> latest_;
};

}  // namespace tune
