#include "tools/export/onnx/builder.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace tune {

namespace {

template <typename T>
std::string bytes_of(const T* values, std::size_t count) {
  return {reinterpret_cast<const char*>(values), count * sizeof(T)};
}

}  // namespace

std::string OnnxGraphBuilder::fresh(const std::string& what) { return fmt::format("{}/{}_{}", scope_, what, count_++); }

std::string OnnxGraphBuilder::add(const std::string& op, const Names& inputs, const OnnxAttributes& attributes,
                                  const std::string& domain) {
  std::string name = fresh(op);
  model_.nodes.push_back({op, domain, name, inputs, {name}, attributes});
  return name;
}

void OnnxGraphBuilder::add_as(const std::string& output, const std::string& op, const Names& inputs,
                              const OnnxAttributes& attributes) {
  add_with_outputs(op, inputs, {output}, attributes);
}

std::string OnnxGraphBuilder::add_with_outputs(const std::string& op, const Names& inputs, const Names& outputs,
                                               const OnnxAttributes& attributes, const std::string& domain) {
  std::string name = fresh(op);
  model_.nodes.push_back({op, domain, name, inputs, outputs, attributes});
  return name;
}

std::string OnnxGraphBuilder::constant(OnnxTensor tensor) {
  const std::string key =
      fmt::format("{}[{}]{}", static_cast<int>(tensor.type), fmt::join(tensor.dims, ","), tensor.inline_bytes);
  const auto [found, is_new] = constants_.try_emplace(key, fmt::format("constants/{}", constants_.size()));
  if (is_new) {
    tensor.name = found->second;
    model_.initializers.push_back(std::move(tensor));
  }
  return found->second;
}

std::string OnnxGraphBuilder::integer(std::int64_t value) {
  return constant(
      {.name = "", .type = OnnxType::int64, .dims = {}, .inline_bytes = bytes_of(&value, 1), .external = {}});
}

std::string OnnxGraphBuilder::integers(std::vector<std::int64_t> values) {
  return constant({.name = "",
                   .type = OnnxType::int64,
                   .dims = {static_cast<std::int64_t>(values.size())},
                   .inline_bytes = bytes_of(values.data(), values.size()),
                   .external = {}});
}

std::string OnnxGraphBuilder::number(float value) {
  return constant(
      {.name = "", .type = OnnxType::float32, .dims = {}, .inline_bytes = bytes_of(&value, 1), .external = {}});
}

}  // namespace tune
