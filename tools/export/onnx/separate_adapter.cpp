#include "tools/export/onnx/separate_adapter.h"

#include <fmt/format.h>

#include <cmath>

#include "checkpoints/huggingface/convert.h"
#include "recipes/schema/error.h"
#include "tools/export/merge.h"
#include "tools/export/onnx/planned_weight.h"

namespace tune {

namespace {

/// [rows, columns] -> [columns, rows], times scale.
std::vector<float> turned(const std::vector<float>& values, std::size_t columns, float scale) {
  const std::size_t rows = values.size() / columns;
  std::vector<float> result(values.size());
  for (std::size_t row = 0; row < rows; ++row)
    for (std::size_t column = 0; column < columns; ++column)
      result[column * rows + row] = values[row * columns + column] * scale;
  return result;
}

}  // namespace

std::string SeparateAdapter::declare(const std::string& name, std::int64_t other_size, std::int64_t rank,
                                     std::size_t rank_axis) {
  const OnnxType type = onnx_type_of(computes_in_);
  std::vector<std::int64_t> empty = {other_size, other_size}, full = empty;
  std::vector<OnnxDim> shape = {other_size, other_size};
  empty[rank_axis] = 0;
  full[rank_axis] = rank;
  shape[rank_axis] = rank == adapter_.config().r ? "lora_r" : fmt::format("lora_r_{}", rank);
  graph_.input({name, type, shape});
  graph_.initializer({.name = name, .type = type, .dims = empty, .inline_bytes = {}, .external = {}});
  parameters_.push_back({name, type, full});
  return name;
}

std::string SeparateAdapter::add(const std::string& result, const std::string& x, const std::string& module) {
  const TensorInfo* a = adapter_.find(fmt::format("{}{}{}", kAdapterPrefix, module, kFactorA));
  const TensorInfo* b = adapter_.find(fmt::format("{}{}{}", kAdapterPrefix, module, kFactorB));
  if (a == nullptr || b == nullptr) return result;
  const std::string input_a = declare(fmt::format("{}{}", module, kFactorA), a->shape[1], a->shape[0], 1);
  const std::string input_b = declare(fmt::format("{}{}", module, kFactorB), b->shape[0], b->shape[1], 0);
  return graph_.add("Add", {result, graph_.add("MatMul", {graph_.add("MatMul", {x, input_a}), input_b})});
}

std::vector<std::byte> SeparateAdapter::bytes_of(const std::string& input) const {
  const std::string name = fmt::format("{}{}", kAdapterPrefix, input);
  const bool is_b = name.ends_with(kFactorB);
  const auto columns = static_cast<std::size_t>(adapter_.find(name)->shape[1]);
  const std::string module = input.substr(0, input.size() - kFactorB.size());
  const float scale = is_b ? static_cast<float>(adapter_.config().scale_of(module)) : 1.0f;
  const std::vector<float> values = turned(read_factor(adapter_, name), columns, scale);
  for (const float value : values)
    if (!(std::fabs(value) < overflow_of(computes_in_)))
      throw Error{
          Fault::data,
          {adapter_.path().string()},
          fmt::format("tensor {} holds {} with its scale, too large for {}", name, value, dtype_name(computes_in_)),
          "nothing was written; export as bf16 or f32"};
  std::vector<std::byte> bytes(values.size() * element_bytes(computes_in_));
  convert_elements("F32", std::as_bytes(std::span(values)), computes_in_, bytes);
  return bytes;
}

void SeparateAdapter::write(const std::filesystem::path& path) const {
  write_onnx_adapter(path, parameters_, [&](std::size_t i) { return bytes_of(parameters_[i].name); });
}

}  // namespace tune
