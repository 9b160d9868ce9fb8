#include "checkpoints/peft/adapter_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <limits>

#include "checkpoints/files/json.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

using nlohmann::json;

/// Collects what is wrong in one adapter_config.json while it is read.
class AdapterFile {
 public:
  explicit AdapterFile(const std::filesystem::path& path) : path_(path), json_(read_json_object(path)) {}

  /// The value; null when missing.
  const json& value(const char* key) const {
    static const json kNull;
    const auto found = json_.find(key);
    return found == json_.end() ? kNull : *found;
  }

  void complain(std::string what) { faults_.push_back(std::move(what)); }

  /// `null`, `false`, an empty list, object or text all mean that a feature isn't used.
  void expect_unused(const char* key, const char* meaning) {
    const json& set = value(key);
    const bool unused = set.is_null() || set == false || (!set.is_primitive() && set.empty()) || set == "";
    if (!unused) complain(fmt::format("{} is {} ({})", key, set.dump(), meaning));
  }

  double number(const char* key, double missing, double least, double most) {
    const json& set = value(key);
    if (set.is_null()) return missing;
    if (set.is_number() && set.get<double>() >= least && set.get<double>() <= most) return set.get<double>();
    complain(fmt::format("{} is {}; it must be a number from {:g} to {:g}", key, set.dump(), least, most));
    return missing;
  }

  void throw_faults() const {
    if (faults_.empty()) return;
    throw Error{Fault::data,
                {path_.string()},
                fmt::format("this adapter can't be used: {}", fmt::join(faults_, "; ")),
                "use a plain LoRA adapter, or merge this one into its base model with PEFT's merge_and_unload()"};
  }

 private:
  std::filesystem::path path_;
  json json_;
  std::vector<std::string> faults_;
};

/// With the other initialisations (pissa, olora, corda, loftq, ...) PEFT changes the base weights when it loads them.
void refuse_changed_base(AdapterFile& file) {
  const json& init = file.value("init_lora_weights");
  if (init.is_null() || init.is_boolean() || init == "gaussian" || init == "eva" || init == "orthogonal") return;
  file.complain(
      fmt::format("init_lora_weights is {} (it goes with other base weights than the model's own)", init.dump()));
}

void refuse_other_methods(AdapterFile& file) {
  if (file.value("peft_type") != "LORA")
    file.complain(fmt::format("peft_type is {}; it must be \"LORA\"", file.value("peft_type").dump()));
  const json& bias = file.value("bias");
  if (!bias.is_null() && bias != "none") file.complain(fmt::format("bias is {}; it must be \"none\"", bias.dump()));
  file.expect_unused("use_dora", "DoRA is not supported");
  file.expect_unused("lora_bias", "biases are not supported");
  file.expect_unused("fan_in_fan_out", "transposed weights are not supported");
  file.expect_unused("modules_to_save", "whole modules inside an adapter are not supported");
  file.expect_unused("rank_pattern", "one rank for all layers is supported");
  file.expect_unused("alpha_pattern", "one alpha for all layers is supported");
  file.expect_unused("layers_to_transform", "an adapter has all layers");
  file.expect_unused("layer_replication", "repeated layers are not supported");
  file.expect_unused("target_parameters", "adapters of linear layers are supported");
  file.expect_unused("trainable_token_indices", "trained embedding rows are not supported");
  file.expect_unused("alora_invocation_tokens", "it works on the tokens behind an invocation only");
  file.expect_unused("use_qalora", "QA-LoRA pools its inputs");
  file.expect_unused("use_bdlora", "block-diagonal factors are not supported");
  file.expect_unused("kasa_config", "KaSA changes the base model");
  file.expect_unused("monteclora_config", "MonteCLoRA samples its weights");
  file.expect_unused("arrow_config", "routing between adapters is not supported");
  refuse_changed_base(file);
}

std::vector<std::string> read_targets(AdapterFile& file) {
  const json& targets = file.value("target_modules");
  if (targets == "all-linear") return {"all-linear"};
  std::vector<std::string> names;
  bool readable = targets.is_array() && !targets.empty();
  if (readable)
    for (const json& name : targets) {
      readable = readable && name.is_string();
      if (name.is_string()) names.push_back(name.get<std::string>());
    }
  if (!readable) file.complain(fmt::format("target_modules is {}; it must be a list of module names", targets.dump()));
  return names;
}

}  // namespace

double AdapterConfig::scale() const {
  const auto rank = static_cast<double>(r);
  return lora_alpha / (use_rslora ? std::sqrt(rank) : rank);
}

AdapterConfig read_adapter_config(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / kAdapterConfigFile;
  if (!std::filesystem::exists(path))
    throw Error{Fault::data,
                {folder.string()},
                fmt::format("has no {}", kAdapterConfigFile),
                "give the folder of a PEFT adapter"};
  AdapterFile file(path);
  refuse_other_methods(file);
  AdapterConfig config;
  if (file.value("base_model_name_or_path").is_string())
    config.base_model_name_or_path = file.value("base_model_name_or_path").get<std::string>();
  const double rank = file.number("r", 8, 1, 65536);  // what is missing is as in PEFT's LoraConfig
  config.r = static_cast<std::int64_t>(rank);
  if (rank != static_cast<double>(config.r)) file.complain(fmt::format("r is {:g}; it must be whole", rank));
  config.lora_alpha = file.number("lora_alpha", 8, 0, 1e9);
  config.lora_dropout = file.number("lora_dropout", 0, 0, 1);
  config.use_rslora = file.value("use_rslora") == true;
  config.target_modules = read_targets(file);
  file.throw_faults();
  return config;
}

std::string write_adapter_config(const AdapterConfig& config) {
  using nlohmann::ordered_json;
  // PEFT declares lora_alpha as an int: keep it one where it is
  const auto whole = static_cast<std::int64_t>(config.lora_alpha);
  const bool is_whole = static_cast<double>(whole) == config.lora_alpha;
  const ordered_json json = {
      {"peft_type", "LORA"},
      {"task_type", "CAUSAL_LM"},
      {"base_model_name_or_path", config.base_model_name_or_path},
      {"r", config.r},
      {"lora_alpha", is_whole ? ordered_json(whole) : ordered_json(config.lora_alpha)},
      {"lora_dropout", config.lora_dropout},
      {"target_modules", config.target_modules == std::vector<std::string>{"all-linear"}
                             ? ordered_json("all-linear")
                             : ordered_json(config.target_modules)},
      {"bias", "none"},
      {"fan_in_fan_out", false},
      {"inference_mode", true},
      {"modules_to_save", nullptr},
      {"init_lora_weights", true},
      {"use_rslora", config.use_rslora},
      {"use_dora", false},
      {"rank_pattern", ordered_json::object()},
      {"alpha_pattern", ordered_json::object()},
      {"layers_to_transform", nullptr},
      {"layers_pattern", nullptr},
      {"revision", nullptr},
  };
  return json.dump(2) + "\n";
}

}  // namespace tune
