#include "tools/export/check_vllm.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoints/files/json.h"
#include "checkpoints/peft/adapter_config.h"
#include "checkpoints/safetensors/reader.h"
#include "recipes/schema/error.h"
#include "recipes/schema/lora_shape.h"
#include "tools/export/merge.h"
#include "train/plan/plan.h"

namespace tune {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr std::array<std::int64_t, 9> kRanks = {1, 8, 16, 32, 64, 128, 256, 320, 512};  // MaxLoRARanks
constexpr std::string_view kMerge = "export a merged model instead: --format hf";
constexpr std::string_view kMergeByPeft = "merge it into its base with PEFT's merge_and_unload()";  // we don't read it

bool among(std::string_view text, std::initializer_list<std::string_view> list) {
  return std::find(list.begin(), list.end(), text) != list.end();
}

/// What stands in the way, and what to do about it, each once.
class Obstacles {
 public:
  void add(std::string what, std::string_view remedy) {
    whats_.push_back(std::move(what));
    if (std::find(remedies_.begin(), remedies_.end(), remedy) == remedies_.end()) remedies_.emplace_back(remedy);
  }

  void throw_any(const Place& place) const {
    if (whats_.empty()) return;
    throw Error{Fault::recipe, place, fmt::format("vLLM would not load this adapter: {}", fmt::join(whats_, "; ")),
                fmt::format("{}", fmt::join(remedies_, "; "))};
  }

 private:
  std::vector<std::string> whats_, remedies_;
};

/// As Python reads it.
bool is_true(const json& value) {
  if (value.is_number()) return value != 0;
  if (value.is_boolean()) return value.get<bool>();
  return value.is_string() ? !value.get_ref<const std::string&>().empty() : !value.empty();  // null is empty
}

json value_of(const json& file, const char* key) { return file.contains(key) ? file.at(key) : json(); }

std::int64_t check_rank(std::int64_t rank, Obstacles& obstacles) {
  const auto* least = std::lower_bound(kRanks.begin(), kRanks.end(), rank);
  if (least != kRanks.end() && rank > 0) return *least;
  obstacles.add(fmt::format("its rank is {}, and --max-lora-rank ends at {}", rank, kRanks.back()),
                fmt::format("train it with lora_r from 1 to {}, or {}", kRanks.back(), kMerge));
  return 0;
}

/// PEFTHelper's rules. Returns the value for --max-lora-rank.
std::int64_t check_config(const json& file, Obstacles& obstacles) {
  for (const char* key : {"r", "lora_alpha", "target_modules"})
    if (!file.contains(key))
      obstacles.add(fmt::format("{} is missing in {}", key, kAdapterConfigFile), "write what PEFT's default stood for");
  for (const char* key : {"modules_to_save", "use_dora", "lora_bias", "alora_invocation_tokens", "layer_replication",
                          "use_bdlora", "use_qalora"})
    if (is_true(value_of(file, key))) obstacles.add(fmt::format("{} is {}", key, file.at(key).dump()), kMergeByPeft);
  if (file.contains("bias") && file.at("bias") != "none")
    obstacles.add(fmt::format("bias is {}, not \"none\"", file.at("bias").dump()), kMergeByPeft);
  if (const json init = value_of(file, "init_lora_weights"); init.is_string()) {
    std::string name = init.get<std::string>();
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    if (!among(name, {"gaussian", "eva", "orthogonal", "mica", "lora_ga"}))
      obstacles.add(fmt::format("init_lora_weights is {}, which goes with other base weights", init.dump()),
                    "convert it with PEFT's path_initial_model_for_weight_conversion");
  }
  if (is_true(value_of(file, "alpha_pattern")) || is_true(value_of(file, "rank_pattern")))
    obstacles.add("ranks or alphas differ between modules, and vLLM scales all by lora_alpha / r", kMerge);
  return check_rank(value_of(file, "r").is_number_integer() ? file.at("r").get<std::int64_t>() : 8, obstacles);
}

/// Collects the modules that the factors belong to; complains of tensors that are no factors.
std::set<std::string> modules_of(const std::vector<TensorInfo>& tensors, Obstacles& obstacles) {
  std::set<std::string> modules, others;
  for (const TensorInfo& tensor : tensors) {
    std::string_view name = tensor.name;
    if (name.ends_with(".embed_tokens.base_layer.weight") || name.ends_with(".lm_head.base_layer.weight")) continue;
    if (name.starts_with(kAdapterPrefix)) name.remove_prefix(kAdapterPrefix.size());
    const std::string_view whole = name;
    for (const std::string_view end :
         {kFactorA, kFactorB, std::string_view(".lora_embedding_A"), std::string_view(".lora_embedding_B")})
      if (name.ends_with(end)) name.remove_suffix(end.size());
    if (name.size() == whole.size())
      others.insert(std::string(name));
    else
      modules.insert(std::string(name));
  }
  if (!others.empty())
    obstacles.add(fmt::format("{}{} is no factor of LoRA", *others.begin(),
                              others.size() > 1 ? fmt::format(" (and {} more tensors)", others.size() - 1) : ""),
                  kMergeByPeft);
  return modules;
}

bool takes_adapter(const ModelConfig& config, std::string_view name) {
  if (among(name, {"q_proj", "k_proj", "v_proj", "o_proj"})) return true;
  const bool experts = config.num_local_experts > 0;
  if (experts ? name == "gate" : among(name, {"gate_proj", "up_proj", "down_proj"})) return true;
  return config.model_type != "mistral" && among(name, {"embed_tokens", "lm_head"});
}

/// "experts.7.w1" is the last part of the name of one that there is.
bool is_expert(const ModelConfig& config, std::string_view part) {
  for (std::int64_t expert = 0; expert < config.num_local_experts; ++expert)
    for (const char* matrix : {"w1", "w2", "w3"})
      if (part == fmt::format("experts.{}.{}", expert, matrix)) return true;
  return false;
}

void check_modules(const ModelConfig& config, const std::set<std::string>& modules, Obstacles& obstacles) {
  std::set<std::string> unknown, fused;
  std::map<std::string, std::int64_t> experts;  // factors by layer
  for (const std::string& module : modules) {
    const std::size_t at = module.find(".experts");
    const std::string part = at == std::string::npos ? module.substr(module.rfind('.') + 1) : module.substr(at + 1);
    if (part == "experts" || part == "experts.base_layer")
      fused.insert(part);
    else if (at != std::string::npos && is_expert(config, part))
      ++experts[module.substr(0, at)];
    else if (at != std::string::npos || !takes_adapter(config, part))
      unknown.insert(part);
  }
  if (!unknown.empty())
    obstacles.add(fmt::format("there are no adapters of {} in {} models", fmt::join(unknown, ", "), config.model_type),
                  fmt::format("leave {} out of lora_target_modules, or {}", fmt::join(unknown, ", "), kMerge));
  if (!fused.empty())
    obstacles.add("the factors of all experts are fused (target_parameters)",
                  "train one pair of factors an expert, as here");
  const bool some = std::any_of(experts.begin(), experts.end(),
                                [&](const auto& layer) { return layer.second != 3 * config.num_local_experts; });
  if (some)
    obstacles.add("only some of the experts' w1, w2 and w3 have adapters, and vLLM takes all or none of a layer",
                  fmt::format("name w1, w2 and w3 in lora_target_modules, or none of them, or {}", kMerge));
}

}  // namespace

std::int64_t check_vllm(const ModelConfig& config, const fs::path& folder) {
  Obstacles obstacles;
  const std::int64_t rank = check_config(read_json_object(folder / kAdapterConfigFile), obstacles);
  if (fs::exists(folder / kAdapterWeightsFile))
    check_modules(config, modules_of(SafetensorsFile(folder / kAdapterWeightsFile).tensors(), obstacles), obstacles);
  obstacles.throw_any({folder.string()});
  return rank;
}

void check_vllm(const ModelConfig& config, const AdapterOptions& adapter) {
  Obstacles obstacles;
  check_rank(stored_adapter(adapter).lora_r, obstacles);
  if (adapter.use_dora) obstacles.add("use_dora is true", kMerge);
  if (!adapter.rank_pattern.empty() || !adapter.alpha_pattern.empty())
    obstacles.add("ranks or alphas differ between modules, and vLLM scales all by lora_alpha / r", kMerge);
  for (const std::string& module : adapter.modules_to_save)
    obstacles.add(fmt::format("modules_to_save has {}", module), kMerge);
  std::set<std::string> modules;  // of a layer
  for (const std::string& name : adapted_modules(adapter, config)) {
    if (!among(name, {"w1", "w2", "w3"})) modules.insert(name);
    for (std::int64_t expert = 0; !modules.contains(name) && expert < config.num_local_experts; ++expert)
      modules.insert(fmt::format("layer.experts.{}.{}", expert, name));
  }
  check_modules(config, modules, obstacles);
  obstacles.throw_any({});
}

}  // namespace tune
