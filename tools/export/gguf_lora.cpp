#include "tools/export/gguf_lora.h"

#include <fmt/format.h>

#include "checkpoints/gguf/names.h"
#include "checkpoints/gguf/writer.h"
#include "checkpoints/peft/adapter_folder.h"
#include "recipes/schema/error.h"
#include "tools/export/mark.h"
#include "tools/export/merge.h"

namespace tune {

namespace {

constexpr std::string_view kPrefix = "base_model.model.", kA = ".lora_A.weight", kB = ".lora_B.weight";

/// "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" -> "blk.0.attn_q.weight.lora_a".
/// A name that MergedWeights has let pass.
std::string gguf_lora_name(const std::string& name) {
  const std::string module = name.substr(kPrefix.size(), name.size() - kPrefix.size() - kA.size());
  const auto target = gguf_name(module + ".weight");
  TUNE_CHECK(target, "no GGUF name for {}", name);
  return *target + (name.ends_with(kA) ? ".lora_a" : ".lora_b");
}

void write_factor(const AdapterFolder& adapter, const TensorInfo& info, std::int64_t head_dim,
                  const std::string& target, GgufWriter& writer) {
  std::vector<float> values = read_factor(adapter, info.name);
  if (info.name.ends_with(kB) && rows_are_permuted(info.name))  // the rows of B are those of the weight
    permute_rows_for_gguf(values, info.shape.back(), head_dim);
  writer.write_tensor(target, std::as_bytes(std::span(values)));
}

}  // namespace

void export_gguf_lora(const BaseModel& base, const std::filesystem::path& adapter_folder,
                      const std::filesystem::path& output) {
  const AdapterFolder adapter(adapter_folder);
  const MergedWeights checked(*base.weights, adapter, adapter_folder.string());
  // llama.cpp scales by alpha / rank, knows no other rule, and takes alpha 0 for "no scale"
  const double alpha = adapter.config().scale() * static_cast<double>(adapter.config().r);
  if (alpha == 0)
    throw Error{Fault::data,
                {adapter_folder.string()},
                "has lora_alpha 0: it changes nothing",
                "train it with a lora_alpha above 0"};
  const GgufMetadata metadata = {{"general.architecture", "llama"},
                                 {"general.type", "adapter"},
                                 {"general.name", adapter_folder.filename().string()},
                                 {kExportMarkKey, "gguf-lora"},
                                 {"adapter.type", "lora"},
                                 {"adapter.lora.alpha", static_cast<float>(alpha)}};
  std::vector<GgufTensorInfo> targets;
  for (const TensorInfo& info : adapter.tensors())
    targets.push_back({gguf_lora_name(info.name), GgufType::f32, info.shape});
  GgufWriter writer(output, metadata, targets);
  for (std::size_t i = 0; i < targets.size(); ++i)
    write_factor(adapter, adapter.tensors()[i], base.config.head_dim, targets[i].name, writer);
  writer.close();
}

}  // namespace tune
