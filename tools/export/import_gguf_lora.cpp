#include "tools/export/import_gguf_lora.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "checkpoints/gguf/blocks/blocks.h"
#include "checkpoints/gguf/gguf.h"
#include "checkpoints/gguf/names.h"
#include "checkpoints/peft/adapter_folder.h"
#include "recipes/schema/error.h"
#include "tools/export/merge.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kGgufA = ".lora_a", kGgufB = ".lora_b";

[[noreturn]] void refuse(const fs::path& file, const std::string& what, const std::string& remedy) {
  throw Error{Fault::data, {file.string()}, what, remedy};
}

/// One factor under PEFT's key.
struct Factor {
  std::string name;
  std::vector<std::int64_t> shape;  // [r, in] or [out, r]
  std::vector<float> values;
};

std::vector<float> values_of(const GgufFile& file, const GgufTensor& tensor) {
  if (!is_readable(tensor.type))
    refuse(file.path(), fmt::format("has the tensor {} in {}", tensor.name, traits_of(tensor.type)->name),
           "convert the adapter to F32, F16 or Q8_0");
  std::int64_t count = 1;
  for (const std::int64_t extent : tensor.shape) count *= extent;
  std::vector<float> values(static_cast<std::size_t>(count));
  dequantize(tensor.type, tensor.bytes, values);
  const bool all_finite = std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
  if (!all_finite) refuse(file.path(), fmt::format("has no number in {}", tensor.name), "take another adapter");
  return values;
}

/// Rows of whole heads from GGUF's order into Hugging Face's.
std::vector<float> in_order(const std::vector<float>& rows, std::int64_t columns, std::int64_t head_dim) {
  std::vector<float> result(rows.size());
  const auto width = static_cast<std::size_t>(columns);
  for (std::size_t row = 0; row * width < rows.size(); ++row) {
    const auto from = static_cast<std::size_t>(gguf_row(static_cast<std::int64_t>(row), head_dim));
    std::copy_n(rows.begin() + static_cast<std::ptrdiff_t>(from * width), width,
                result.begin() + static_cast<std::ptrdiff_t>(row * width));
  }
  return result;
}

/// The factors of a tensor of the file: one, or one for each expert that is stacked in it.
void append_factors(const BaseModel& base, const GgufFile& file, const GgufTensor& tensor,
                    std::vector<Factor>& factors) {
  const bool is_a = tensor.name.ends_with(kGgufA);
  const std::string weight = tensor.name.substr(0, tensor.name.size() - kGgufA.size());
  const bool stacked = holds_stacked_experts(weight);
  if ((!is_a && !tensor.name.ends_with(kGgufB)) || !weight.starts_with("blk.") || !huggingface_name(weight))
    refuse(file.path(), fmt::format("has {}, which is no factor of a linear layer", tensor.name),
           "use it in llama.cpp; nothing here can");
  const std::size_t dimensions = stacked ? 3 : 2;
  const bool permuted = !is_a && rows_are_permuted(*huggingface_name(weight));
  if (tensor.shape.size() != dimensions || (stacked && tensor.shape[0] != base.config.num_local_experts) ||
      (permuted && tensor.shape[0] % base.config.head_dim != 0))
    refuse(file.path(), fmt::format("has another shape of {} than the base model", tensor.name),
           "give the base model that it was made for");
  const std::vector<float> values = values_of(file, tensor);
  const std::vector<std::int64_t> shape(tensor.shape.end() - 2, tensor.shape.end());
  const std::size_t size = values.size() / static_cast<std::size_t>(stacked ? tensor.shape[0] : 1);
  for (std::size_t expert = 0; expert * size < values.size(); ++expert) {
    const std::string name = *huggingface_name(weight, static_cast<std::int64_t>(expert));
    const std::string_view module = std::string_view(name).substr(0, name.size() - std::strlen(".weight"));
    const auto first = values.begin() + static_cast<std::ptrdiff_t>(expert * size);
    Factor factor{fmt::format("{}{}{}", kAdapterPrefix, module, is_a ? kFactorA : kFactorB),
                  shape,
                  {first, first + static_cast<std::ptrdiff_t>(size)}};
    if (permuted) factor.values = in_order(factor.values, shape[1], base.config.head_dim);
    factors.push_back(std::move(factor));
  }
}

/// "model.layers.0.self_attn.q_proj" of "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight".
std::string module_of(const std::string& key) {
  return key.substr(kAdapterPrefix.size(), key.size() - kAdapterPrefix.size() - kFactorA.size());
}

std::int64_t rank_of(const Factor& factor) { return factor.shape[factor.name.ends_with(kFactorA) ? 0 : 1]; }

AdapterConfig config_of(const BaseModel& base, const GgufFile& file, const std::vector<Factor>& factors) {
  std::set<std::string> modules;
  AdapterConfig config{.base_model_name_or_path = base.path.string(), .r = rank_of(factors.front())};
  const double alpha = file.real("adapter.lora.alpha", 0.0);  // llama.cpp: 0 = not scaled
  config.lora_alpha = alpha == 0 ? static_cast<double>(config.r) : alpha;
  for (const Factor& factor : factors) {
    const std::string module = module_of(factor.name);
    modules.insert(module.substr(module.rfind('.') + 1));
    if (const std::int64_t rank = rank_of(factor); rank != config.r) {
      config.rank_pattern[module] = rank;
      if (alpha == 0) config.alpha_pattern[module] = static_cast<double>(rank);
    }
  }
  config.target_modules = {modules.begin(), modules.end()};
  return config;
}

}  // namespace

bool is_gguf_adapter(const fs::path& path) { return path.extension() == ".gguf" && fs::is_regular_file(path); }

void import_gguf_lora(const BaseModel& base, const fs::path& path, const fs::path& folder) {
  const GgufFile file(path);
  if (file.text("general.type", "model") != "adapter" || file.text("adapter.type", "") != "lora")
    refuse(path, "is no LoRA adapter", "give what convert_lora_to_gguf.py or tune export --format gguf-lora wrote");
  std::vector<Factor> factors;
  for (const GgufTensor& tensor : file.tensors()) append_factors(base, file, tensor, factors);
  if (factors.empty()) refuse(path, "is an adapter without tensors", "take another one");
  std::vector<NamedBytes> tensors;
  for (const Factor& factor : factors)
    tensors.push_back({factor.name, "F32", factor.shape, std::as_bytes(std::span(factor.values))});
  write_adapter(folder, config_of(base, file, factors), tensors);
  const AdapterFolder written(folder);
  const MergedWeights checked(*base.weights, written, path.string());  // pairs and shapes
}

}  // namespace tune
