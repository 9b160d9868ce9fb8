#include "checkpoints/onnx/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "checkpoints/huggingface/config.h"
#include "checkpoints/huggingface/convert.h"
#include "checkpoints/huggingface/model_tensors.h"
#include "checkpoints/onnx/adapter.h"
#include "checkpoints/onnx/weights.h"
#include "recipes/schema/error.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

const OnnxStoredTensor* find(const OnnxFile& file, std::string_view name) {
  const auto& all = file.tensors();
  const auto found = std::find_if(all.begin(), all.end(), [&](const auto& tensor) { return tensor.name == name; });
  return found == all.end() ? nullptr : &*found;
}

std::string quant_of(const OnnxFile& file) {
  for (const auto& [key, value] : file.metadata())
    if (key == kOnnxQuantKey) return value;
  throw Error{Fault::data,
              {file.path().string()},
              "was written by another program",
              "what tune export --format onnx writes can be read back"};
}

/// [positions, head_dim / 2], of cosines or sines. Frequencies are computed in fp32, so that the angle is the less
/// certain the later the position.
void check_rope_table(const OnnxFile& file, const ModelConfig& config, const char* name, double (*wave)(double)) {
  const auto refuse = [&](const std::string& what) {
    throw Error{Fault::verification, {file.path().string()}, fmt::format("{} {}", name, what), "export it again"};
  };
  const std::int64_t half = config.head_dim / 2;
  const OnnxStoredTensor* table = find(file, name);
  const bool is_half = table != nullptr && table->type == OnnxType::float16;
  if (table == nullptr || (!is_half && table->type != OnnxType::float32) || table->bytes.empty() ||
      table->dims != std::vector{config.max_position_embeddings, half})
    refuse(fmt::format("isn't a table of {} positions and {} frequencies", config.max_position_embeddings, half));
  std::vector<double> frequencies;
  for (std::int64_t i = 0; i < half; ++i)
    frequencies.push_back(std::pow(config.rope_theta, -static_cast<double>(i) / static_cast<double>(half)));
  std::vector<float> row(frequencies.size());
  const std::size_t row_bytes = row.size() * (is_half ? 2 : 4);
  for (std::int64_t position = 0; position < config.max_position_embeddings; ++position) {
    convert_elements(is_half ? "F16" : "F32",
                     table->bytes.subspan(static_cast<std::size_t>(position) * row_bytes, row_bytes), Dtype::fp32,
                     std::as_writable_bytes(std::span(row)));
    const auto at = static_cast<double>(position);
    for (std::size_t i = 0; i < row.size(); ++i)
      if (!(std::fabs(row[i] - wave(at * frequencies[i])) <= 1e-3 + at * 0x1p-21))
        refuse(fmt::format("is wrong at position {}: value {} isn't that of rope_theta {}", position, i,
                           config.rope_theta));
  }
}

}  // namespace

bool holds_only_onnx(const fs::path& folder) {
  if (!fs::exists(folder / kOnnxModelFile)) return false;
  const fs::directory_iterator files(folder), end;
  return std::none_of(files, end, [](const auto& file) {
    return file.path().extension() == ".safetensors" || file.path().extension() == ".bin";
  });
}

std::string onnx_quant(const fs::path& folder) { return quant_of(OnnxFile(folder / kOnnxModelFile)); }

BaseModel open_onnx_model(const fs::path& folder) {
  BaseModel model;
  model.path = folder;
  model.config = read_model_config(folder);
  OnnxFile file(folder / kOnnxModelFile);
  quant_of(file);  // it is ours
  check_rope_table(file, model.config, "rope.cosine", std::cos);
  check_rope_table(file, model.config, "rope.sine", std::sin);
  if (find(file, "lm_head.weight") != nullptr) model.config.tie_word_embeddings = false;
  std::optional<OnnxAdapterFile> adapter;
  if (fs::exists(folder / kOnnxAdapterFile)) adapter.emplace(folder / kOnnxAdapterFile);
  model.weights = open_onnx_weights(std::move(file), std::move(adapter));
  check_tensors(model.config, *model.weights, (folder / kOnnxModelFile).string());
  return model;
}

}  // namespace tune
