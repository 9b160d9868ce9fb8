#include "tools/export/importance_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "checkpoints/gguf/gguf.h"
#include "checkpoints/gguf/names.h"
#include "checkpoints/gguf/writer.h"
#include "checkpoints/huggingface/model_tensors.h"
#include "recipes/schema/error.h"
#include "tools/export/mark.h"

namespace tune {

namespace {

constexpr const char* kSquares = ".in_sum2";
constexpr const char* kCounts = ".counts";

/// The tensor of a file with its name, fp32; nullptr where the file hasn't got it.
const GgufTensor* numbers_of(const GgufFile& file, const std::string& name, std::size_t count) {
  const GgufTensor* tensor = file.find(name);
  if (tensor == nullptr) return nullptr;
  if (tensor->type != GgufType::f32 || tensor->bytes.size() != count * sizeof(float))
    throw Error{Fault::data,
                {file.path().string()},
                fmt::format("{} isn't of {} fp32 numbers", name, count),
                "the importance matrix is of another model; measure it again with tune imatrix"};
  return tensor;
}

float number_at(const GgufTensor& tensor, std::size_t index) {
  float value;
  std::memcpy(&value, tensor.bytes.data() + index * sizeof(float), sizeof(float));
  return value;
}

}  // namespace

std::vector<float> ImportanceMatrix::of(const std::string& weight) const {
  const auto found = of_weight.find(weight);
  if (found == of_weight.end()) return {};
  const auto& [squares, tokens] = found->second;
  std::vector<float> means(squares.size(), 1.0f);
  if (tokens > 0)
    std::transform(squares.begin(), squares.end(), means.begin(),
                   [&](float sum) { return sum / static_cast<float>(tokens); });
  return means;
}

void write_importance_matrix(const ImportanceMatrix& matrix, const std::filesystem::path& path) {
  std::map<std::string, std::map<std::int64_t, const ImportanceMatrix::Columns*>> stacks;  // GGUF name -> experts
  for (const auto& [weight, columns] : matrix.of_weight)
    stacks[gguf_name(weight).value()][expert_number(weight).value_or(0)] = &columns;
  std::vector<GgufTensorInfo> infos;
  for (const auto& [name, experts] : stacks) {
    const auto count = static_cast<std::int64_t>(experts.size());
    const auto columns = static_cast<std::int64_t>(experts.begin()->second->squares.size());
    infos.push_back({name + kSquares, GgufType::f32, {count, columns}});
    infos.push_back({name + kCounts, GgufType::f32, {count, 1}});
  }
  GgufWriter writer(path,
                    {{"general.type", "imatrix"},
                     {kExportMarkKey, "imatrix"},
                     {"imatrix.datasets", std::vector<std::string>{matrix.dataset}},
                     {"imatrix.chunk_count", static_cast<std::uint32_t>(matrix.rows)},
                     {"imatrix.chunk_size", static_cast<std::uint32_t>(matrix.longest_row)}},
                    std::move(infos));
  for (const auto& [name, experts] : stacks) {
    for (const auto& [expert, columns] : experts)
      writer.write_tensor(name + kSquares, std::as_bytes(std::span(columns->squares)));
    for (const auto& [expert, columns] : experts) {
      const auto tokens = static_cast<float>(columns->tokens);
      writer.write_tensor(name + kCounts, std::as_bytes(std::span(&tokens, 1)));
    }
  }
  writer.close();
}

ImportanceMatrix read_importance_matrix(const std::filesystem::path& path, const ModelConfig& config) {
  const GgufFile file(path);
  const auto refuse = [&](const std::string& what) {
    throw Error{Fault::data, {path.string()}, what, "make one with tune imatrix"};
  };
  if (file.text("general.type", "") != "imatrix") refuse("is no importance matrix");
  ImportanceMatrix matrix{.dataset = path.filename().string(),
                          .rows = file.integer("imatrix.chunk_count", 0),
                          .longest_row = file.integer("imatrix.chunk_size", 0)};
  if (file.has("imatrix.datasets") && !file.texts("imatrix.datasets").empty())
    matrix.dataset = file.texts("imatrix.datasets").front();
  for (const TensorInfo& weight : expected_tensors(config)) {
    const std::string name = gguf_name(weight.name).value();
    const auto experts = static_cast<std::size_t>(holds_stacked_experts(name) ? config.num_local_experts : 1);
    const auto columns = static_cast<std::size_t>(weight.shape.back());
    const GgufTensor* squares = numbers_of(file, name + kSquares, experts * columns);
    const GgufTensor* counts = numbers_of(file, name + kCounts, experts);
    if (squares == nullptr || counts == nullptr) continue;
    const auto expert = static_cast<std::size_t>(expert_number(weight.name).value_or(0));
    ImportanceMatrix::Columns& read = matrix.of_weight[weight.name];
    for (std::size_t i = 0; i < columns; ++i) read.squares.push_back(number_at(*squares, expert * columns + i));
    const float tokens = number_at(*counts, expert);
    const bool fine =
        tokens >= 0 && tokens < 1e15f &&
        std::all_of(read.squares.begin(), read.squares.end(), [](float x) { return x >= 0 && std::isfinite(x); });
    if (!fine) refuse(fmt::format("{} holds what no sums of squares are", name));
    read.tokens = static_cast<std::int64_t>(tokens);
  }
  if (matrix.empty()) refuse("has no importance for any weight of this model");
  return matrix;
}

}  // namespace tune
