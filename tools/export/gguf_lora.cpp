#include "tools/export/gguf_lora.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "checkpoints/gguf/names.h"
#include "checkpoints/gguf/writer.h"
#include "checkpoints/peft/adapter_folder.h"
#include "recipes/schema/error.h"
#include "tools/export/mark.h"
#include "tools/export/merge.h"

namespace tune {

namespace {

/// "model.layers.0.self_attn.q_proj" of "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight".
std::string module_of(const std::string& name) {
  return name.substr(kAdapterPrefix.size(), name.size() - kAdapterPrefix.size() - kFactorA.size());
}

/// "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" -> "blk.0.attn_q.weight.lora_a".
/// A name that MergedWeights has let pass.
std::string gguf_lora_name(const std::string& name) {
  const std::string module = module_of(name);
  const auto target = gguf_name(module + ".weight");
  TUNE_CHECK(target, "no GGUF name for {}", name);
  return *target + (name.ends_with(kFactorA) ? ".lora_a" : ".lora_b");
}

/// alpha over the rank is what llama.cpp scales by; what a module has beyond that goes into its B.
void write_factor(const AdapterFolder& adapter, const TensorInfo& info, std::int64_t head_dim, double alpha,
                  const std::string& target, GgufWriter& writer) {
  std::vector<float> values = read_factor(adapter, info.name);
  const std::string module = module_of(info.name);
  const double rank = static_cast<double>(adapter.config().rank_of(module)),
               more = adapter.config().scale_of(module) * rank / alpha;
  if (info.name.ends_with(kFactorB) && std::abs(more - 1) > 1e-12)
    for (float& value : values) value = static_cast<float>(value * more);
  if (info.name.ends_with(kFactorB) && rows_are_permuted(info.name))  // the rows of B are those of the weight
    permute_rows_for_gguf(values, info.shape.back(), head_dim);
  writer.write_tensor(target, std::as_bytes(std::span(values)));
}

/// A tensor of the file and the factors it is made of: one, or those of all experts, in their order.
struct Target {
  GgufTensorInfo info;
  std::vector<TensorInfo> factors;
};

std::vector<Target> targets_of(const AdapterFolder& adapter, std::int64_t experts, const std::string& where) {
  std::vector<Target> targets;
  std::map<std::string, std::size_t> stacks;
  for (const TensorInfo& info : adapter.tensors()) {
    const std::string name = gguf_lora_name(info.name);
    const auto [entry, is_new] = stacks.emplace(name, targets.size());
    if (is_new) targets.push_back({{name, GgufType::f32, info.shape}, {}});
    targets[entry->second].factors.push_back(info);
  }
  for (auto& [info, factors] : targets) {
    if (!expert_number(factors.front().name)) continue;
    std::sort(factors.begin(), factors.end(),
              [](const TensorInfo& a, const TensorInfo& b) { return expert_number(a.name) < expert_number(b.name); });
    if (static_cast<std::int64_t>(factors.size()) != experts)
      throw Error{
          Fault::data,
          {where},
          fmt::format("has {} of {} experts for {}; llama.cpp takes all or none", factors.size(), experts, info.name),
          "export a merged model instead: --format gguf"};
    info.shape.insert(info.shape.begin(), experts);
  }
  return targets;
}

}  // namespace

void export_gguf_lora(const BaseModel& base, const std::filesystem::path& adapter_folder,
                      const std::filesystem::path& output) {
  const AdapterFolder adapter(adapter_folder);
  const MergedWeights checked(*base.weights, adapter, adapter_folder.string());
  refuse_more_than_factors(adapter, "llama.cpp has no place for", "export a merged model instead: --format gguf");
  // llama.cpp scales by alpha / rank, knows no other rule, and takes alpha 0 for "no scale"
  const std::string first = module_of(adapter.tensors().front().name);
  const double alpha = adapter.config().scale_of(first) * static_cast<double>(adapter.config().rank_of(first));
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
  const std::vector<Target> targets = targets_of(adapter, base.config.num_local_experts, adapter_folder.string());
  std::vector<GgufTensorInfo> infos;
  for (const Target& target : targets) infos.push_back(target.info);
  GgufWriter writer(output, metadata, std::move(infos));
  for (const auto& [info, factors] : targets)
    for (const TensorInfo& factor : factors)
      write_factor(adapter, factor, base.config.head_dim, alpha, info.name, writer);
  writer.close();
}

}  // namespace tune
