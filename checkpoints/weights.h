#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "recipes/schema/recipe.h"

namespace tune {

/// Name, element type (spelled as safetensors does: "F32", "BF16", "F16", "I64"; or a GGUF type such as "Q4_1") and
/// shape (row-major, outermost first) of one stored tensor.
struct TensorInfo {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
};

std::int64_t element_count(const TensorInfo& info);

/// The weights of one base model by their Hugging Face names ("model.layers.0.self_attn.q_proj.weight", rows in Hugging
/// Face order), whatever file they come from. Memory-mapped; read() may be called from several threads.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual const std::vector<TensorInfo>& tensors() const = 0;

  /// Converts tensor `name` to `dtype` straight into `destination` (exactly element_count * size bytes).
  /// fp32 -> bf16 rounds to nearest even. Error{Fault::data} when the file is too short or changed meanwhile.
  virtual void read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const = 0;

  /// Rows [first, first + count) of the outermost axis only, for who must not hold a whole tensor. As read() otherwise.
  virtual void read_rows(std::string_view name, std::int64_t first, std::int64_t count, Dtype dtype,
                         std::span<std::byte> destination) const;

  /// The tensor's entry, or nullptr.
  const TensorInfo* find(std::string_view name) const;
};

}  // namespace tune
