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

/// PEFT's key of a factor is kAdapterPrefix + module + kFactorA or kFactorB, that of DoRA's lengths ends in kMagnitude.
inline constexpr std::string_view kAdapterPrefix = "base_model.model.", kFactorA = ".lora_A.weight",
                                  kFactorB = ".lora_B.weight", kMagnitude = ".lora_magnitude_vector";

/// One tensor of an adapter, fp32. Error{Fault::data} when it holds NaN or infinity.
std::vector<float> read_factor(const AdapterFolder& adapter, const std::string& name);

/// Error{Fault::data} where the adapter has more than factors: DoRA's lengths, whole modules, rows of tokens. `why`:
/// what stands behind "which".
void refuse_more_than_factors(const AdapterFolder& adapter, const std::string& why, const std::string& remedy);

/// A base model with a LoRA adapter folded in: W + scale * B A, with DoRA each of its rows brought to the length that
/// was learnt, computed in fp32 and rounded once to the wanted dtype. What the adapter has whole (modules_to_save), or
/// rows of (trainable_token_indices), stands in for the base's own. Nothing is held but the factors of one matrix.
/// Base and adapter must outlive it. Thread-safe.
class MergedWeights : public WeightSource {
 public:
  /// Error{Fault::data} naming the tensors of the adapter that fit no matrix of the base.
  MergedWeights(const WeightSource& base, const AdapterFolder& adapter, const std::string& adapter_path);

  const std::vector<TensorInfo>& tensors() const override { return base_.tensors(); }
  void read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const override;
  void read_rows(std::string_view name, std::int64_t first, std::int64_t count, Dtype dtype,
                 std::span<std::byte> destination) const override;

 private:
  /// A [rank, columns] and B [rows, rank] of one matrix, fp32, and with DoRA the lengths of its rows.
  struct Factors {
    std::string name;
    std::size_t rank = 0;
    float scale = 1;
    std::vector<float> a, b, magnitudes;
  };

  std::shared_ptr<const Factors> factors(const std::string& name) const;

  std::string add(const TensorInfo& info);
  void put_token_rows(std::int64_t first, std::int64_t count, Dtype dtype, std::span<std::byte> destination) const;

  const WeightSource& base_;
  const AdapterFolder& adapter_;
  std::unordered_map<std::string, std::string> whole_;  // base tensor -> the adapter's that replaces it
  bool has_token_rows_ = false;
  std::unordered_map<std::string, std::string> module_of_;  // base tensor -> the adapter's prefix of its factors
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const Factors> latest_;
};

}  // namespace tune
