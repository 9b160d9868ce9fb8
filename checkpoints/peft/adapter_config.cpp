#include "checkpoints/peft/adapter_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "checkpoints/files/json.h"
#include "recipes/schema/error.h"
#include "recipes/schema/lora_shape.h"

namespace tune {

namespace {

using nlohmann::json;

constexpr const char* kNameCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.";
constexpr double kMostRank = 65536, kMostAlpha = 1e9;

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
  file.expect_unused("lora_bias", "biases are not supported");
  file.expect_unused("fan_in_fan_out", "transposed weights are not supported");
  file.expect_unused("layers_to_transform", "an adapter has all layers");
  file.expect_unused("layer_replication", "repeated layers are not supported");
  file.expect_unused("target_parameters", "adapters of linear layers are supported");
  file.expect_unused("alora_invocation_tokens", "it works on the tokens behind an invocation only");
  file.expect_unused("use_qalora", "QA-LoRA pools its inputs");
  file.expect_unused("use_bdlora", "block-diagonal factors are not supported");
  file.expect_unused("kasa_config", "KaSA changes the base model");
  file.expect_unused("monteclora_config", "MonteCLoRA samples its weights");
  file.expect_unused("arrow_config", "routing between adapters is not supported");
  refuse_changed_base(file);
}

std::vector<std::string> read_whole_modules(AdapterFile& file) {
  std::vector<std::string> names;
  const json& modules = file.value("modules_to_save");
  if (modules.is_null()) return names;
  bool known = modules.is_array();
  for (const json& name : known ? modules : json::array()) {
    known = known && (name == "embed_tokens" || name == "lm_head");
    if (known) names.push_back(name.get<std::string>());
  }
  if (!known)
    file.complain(fmt::format("modules_to_save is {}; embed_tokens and lm_head are supported", modules.dump()));
  return names;
}

/// A list is of embed_tokens, an object names it.
std::vector<std::int64_t> read_tokens(AdapterFile& file) {
  const json& set = file.value("trainable_token_indices");
  if (set.is_null()) return {};
  const json& ids = set.is_object() && set.size() == 1 && set.contains("embed_tokens") ? set.at("embed_tokens") : set;
  if (ids.is_array() && std::all_of(ids.begin(), ids.end(), [](const json& id) { return id.is_number_unsigned(); }))
    return ids.get<std::vector<std::int64_t>>();
  file.complain(fmt::format("trainable_token_indices is {}; ids of embed_tokens are supported", set.dump()));
  return {};
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

/// PEFT takes keys to be regular expressions. Those that are names, with or without ^ before them, mean the same here.
template <class Value>
std::map<std::string, Value> read_pattern(AdapterFile& file, const char* key, double least, double most) {
  std::map<std::string, Value> pattern;
  const json& set = file.value(key);
  if (set.is_null()) return pattern;
  if (!set.is_object()) {
    file.complain(fmt::format("{} is {}; it must be an object", key, set.dump()));
    return pattern;
  }
  for (const auto& [name, value] : set.items()) {
    const std::string plain = name.starts_with('^') ? name.substr(1) : name;
    const bool is_name = !plain.empty() && plain.find_first_not_of(kNameCharacters) == std::string::npos;
    const double number = value.is_number() ? value.template get<double>() : -1;
    if (!is_name)
      file.complain(fmt::format("{} has {}; names of modules are supported, patterns of them not", key, name));
    else if (!(number >= least && number <= most) || (std::is_integral_v<Value> && number != std::floor(number)))
      file.complain(fmt::format("{} has {} for {}", key, value.dump(), name));
    else
      pattern[plain] = static_cast<Value>(number);
  }
  return pattern;
}

/// Longest first: PEFT takes the first that fits.
template <class Value>
nlohmann::ordered_json write_pattern(const std::map<std::string, Value>& pattern) {
  std::vector<std::pair<std::string, Value>> sorted(pattern.begin(), pattern.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const auto& [name, value] : sorted) json[name] = value;
  return json;
}

}  // namespace

std::int64_t AdapterConfig::rank_of(std::string_view module) const { return value_for(rank_pattern, module, r); }

double AdapterConfig::scale_of(std::string_view module) const {
  return lora_scale(value_for(alpha_pattern, module, lora_alpha), rank_of(module), use_rslora);
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
  const double rank = file.number("r", 8, 1, kMostRank);  // what is missing is as in PEFT's LoraConfig
  config.r = static_cast<std::int64_t>(rank);
  if (rank != static_cast<double>(config.r)) file.complain(fmt::format("r is {:g}; it must be whole", rank));
  config.lora_alpha = file.number("lora_alpha", 8, 0, kMostAlpha);
  config.lora_dropout = file.number("lora_dropout", 0, 0, 1);
  config.use_rslora = file.value("use_rslora") == true;
  config.use_dora = file.value("use_dora") == true;
  config.rank_pattern = read_pattern<std::int64_t>(file, "rank_pattern", 1, kMostRank);
  config.alpha_pattern = read_pattern<double>(file, "alpha_pattern", 0, kMostAlpha);
  config.modules_to_save = read_whole_modules(file);
  config.trainable_token_indices = read_tokens(file);
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
      {"modules_to_save", config.modules_to_save.empty() ? ordered_json() : ordered_json(config.modules_to_save)},
      {"init_lora_weights", true},
      {"use_rslora", config.use_rslora},
      {"use_dora", config.use_dora},
      {"rank_pattern", write_pattern(config.rank_pattern)},
      {"alpha_pattern", write_pattern(config.alpha_pattern)},
      {"trainable_token_indices",
       config.trainable_token_indices.empty() ? ordered_json() : ordered_json(config.trainable_token_indices)},
      {"layers_to_transform", nullptr},
      {"layers_pattern", nullptr},
      {"revision", nullptr},
  };
  return json.dump(2) + "\n";
}

}  // namespace tune
