#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "checkpoints/onnx/reader.h"

namespace tune {

/// A weight of the model, [out, in] or [hidden], as a decoder's graph stores it.
struct OnnxStoredWeight {
  std::string name;                   // of the tensor that holds its values
  std::vector<std::int64_t> shape;    // of the model's tensor
  OnnxType type = OnnxType::float32;  // of a value; UINT4 and UINT8 count from the middle of their range
  std::span<const std::byte> values;
  std::span<const std::byte> scales;  // fp32; empty where the values are floating-point
  bool is_turned = false;             // stored as [in, out], scales as [blocks of in, out]
  std::int64_t stored_columns = 0;    // of a row that isn't turned, filled up to whole blocks
  std::int64_t block = 0;             // so many values of a row share a scale
};

/// Finds out how a graph stores its weights by what it does with them: MatMul takes them turned, DequantizeLinear,
/// MatMulNBits and Gather say where the scales are, and how many values share one.
class OnnxWeightFinder {
 public:
  explicit OnnxWeightFinder(const OnnxFile& file);

  /// Nothing for tensors that aren't weights: scales, constants, rotary tables, default values of inputs.
  /// Error{Fault::data} for a weight that is stored in another way than `tune export` does it.
  std::optional<OnnxStoredWeight> weight_in(const OnnxStoredTensor& tensor) const;

  /// The tensor of that name, or nullptr.
  const OnnxStoredTensor* find(const std::string& name) const;

 private:
  struct Use {
    const OnnxStoredNode* node;
    std::size_t position;  // among its inputs
  };

  const Use* use_of(const std::string& value) const;
  const Use* use_of_weight(const std::string& tensor) const;
  bool is_taken_turned(const std::string& value) const;
  OnnxStoredWeight blocks_of_matmul(const OnnxStoredTensor& tensor, const OnnxStoredNode& node) const;
  OnnxStoredWeight dequantized(const OnnxStoredTensor& tensor, const OnnxStoredNode& node) const;
  void add_scales(const OnnxStoredTensor& tensor, const std::string& scales, std::int64_t blocks,
                  OnnxStoredWeight& weight) const;
  [[noreturn]] void refuse(const OnnxStoredTensor& tensor, const std::string& what) const;

  const OnnxFile& file_;
  std::map<std::string, const OnnxStoredTensor*> tensors_;
  std::map<std::string, Use> uses_;  // the first of each value
};

/// Rows [first, first + count) of a weight, dequantised; a vector has rows of one value.
/// values.size() == count * shape[1].
void read_weight_rows(const OnnxStoredWeight& weight, std::int64_t first, std::int64_t count, std::span<float> values);

}  // namespace tune
