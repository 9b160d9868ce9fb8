#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "checkpoints/onnx/reader.h"
#include "tools/verbs/finding.h"

namespace tune {

namespace {

using nlohmann::ordered_json;

std::string dim_text(const OnnxDim& dim) {
  const auto* size = std::get_if<std::int64_t>(&dim);
  return size != nullptr ? std::to_string(*size) : std::get<std::string>(dim);
}

/// "past_key_values.7.key" -> "past_key_values.N.key".
std::string without_layer(const std::string& name) {
  std::string result;
  std::istringstream parts(name);
  for (std::string part; std::getline(parts, part, '.');) {
    const bool is_inner = !result.empty() && !parts.eof();
    const bool is_number = part.find_first_not_of("0123456789") == std::string::npos;
    result += fmt::format("{}{}", result.empty() ? "" : ".", is_inner && is_number ? "N" : part);
  }
  return result;
}

/// "past_key_values.N.key FLOAT [batch_size, 8, past_sequence_length, 64], 32 times": a line for what every layer has.
std::vector<std::string> lines_of(const std::vector<OnnxValue>& values) {
  std::vector<std::pair<std::string, int>> lines;
  for (const OnnxValue& value : values) {
    std::vector<std::string> dims;
    for (const OnnxDim& dim : value.shape) dims.push_back(dim_text(dim));
    const std::string line =
        fmt::format("{} {} [{}]", without_layer(value.name), onnx_type_name(value.type), fmt::join(dims, ", "));
    const auto same = std::find_if(lines.begin(), lines.end(), [&](const auto& known) { return known.first == line; });
    if (same == lines.end())
      lines.emplace_back(line, 1);
    else
      ++same->second;
  }
  std::vector<std::string> texts;
  for (const auto& [line, count] : lines) texts.push_back(count == 1 ? line : fmt::format("{}, {} times", line, count));
  return texts;
}

ordered_json bytes_by_type(const OnnxFile& file) {
  std::map<std::string, std::uint64_t> sums;
  for (const OnnxStoredTensor& tensor : file.tensors()) sums[onnx_type_name(tensor.type)] += tensor.bytes.size();
  return sums;
}

}  // namespace

Finding inspect_onnx(const std::filesystem::path& path) {
  const OnnxFile file(std::filesystem::is_directory(path) ? path / kOnnxModelFile : path);
  Finding finding{.kind = "model, ONNX", .facts = {{"producer", file.producer()}, {"ir_version", file.ir_version()}}};
  for (const auto& [domain, version] : file.opsets())
    finding.facts.emplace_back(fmt::format("opset {}", domain.empty() ? "ai.onnx" : domain), version);
  for (const auto& [key, value] : file.metadata()) finding.facts.emplace_back("metadata " + key, value);
  finding.facts.emplace_back("inputs", lines_of(file.inputs()));
  finding.facts.emplace_back("outputs", lines_of(file.outputs()));
  finding.facts.emplace_back("operators", file.operators());
  finding.facts.emplace_back("bytes", bytes_by_type(file));
  for (const OnnxStoredTensor& tensor : file.tensors()) {
    finding.tensors.push_back({tensor.name, onnx_type_name(tensor.type), tensor.dims});
    finding.tensor_bytes.push_back(tensor.bytes.size());
  }
  return finding;
}

}  // namespace tune
