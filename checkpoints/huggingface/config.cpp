#include "checkpoints/huggingface/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>

#include "checkpoints/files/file_system.h"
#include "checkpoints/files/json.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

using nlohmann::json;

constexpr std::int64_t kMaxTokenId = std::numeric_limits<std::int32_t>::max();

/// A config.json: typed look-ups that name the key's line when the value can't be used.
class ConfigFile {
 public:
  explicit ConfigFile(const std::filesystem::path& path)
      : file_(path.string()), text_(read_text(path)), json_(parse_json_object(text_, file_)) {}

  [[noreturn]] void refuse(std::string_view key, const std::string& what, const std::string& remedy) const {
    throw Error{Fault::data, place(key), what, remedy};
  }

  /// The value, or nullptr when the key is missing. `null` is a value.
  const json* find(const std::string& key) const {
    const auto found = json_.find(key);
    return found == json_.end() ? nullptr : &*found;
  }

  bool has_value(const std::string& key) const {
    const json* value = find(key);
    return value != nullptr && !value->is_null();
  }

  /// A whole number from 1 to `largest`; `missing` when the key is not there.
  std::int64_t count(const std::string& key, std::int64_t missing, std::int64_t largest) const {
    const json* value = find(key);
    if (value == nullptr) return missing;
    if (!value->is_number_integer() || *value < 1 || *value > largest)
      refuse(key, fmt::format("{} is {}; it must be a whole number from 1 to {}", key, value->dump(), largest),
             "correct config.json or copy the model again");
    return value->get<std::int64_t>();
  }

  double positive(const std::string& key, const json* value, double missing, double largest) const {
    if (value == nullptr || value->is_null()) return missing;
    const double number = value->is_number() ? value->get<double>() : std::nan("");
    if (!(number > 0 && number <= largest))
      refuse(key, fmt::format("{} is {}; it must be a number above 0 and up to {:g}", key, value->dump(), largest),
             "correct config.json or copy the model again");
    return number;
  }

  bool flag(const std::string& key, bool missing) const {
    const json* value = find(key);
    if (value == nullptr || value->is_null()) return missing;
    if (!value->is_boolean())
      refuse(key, fmt::format("{} is {}; it must be true or false", key, value->dump()), "correct config.json");
    return value->get<bool>();
  }

  /// One id or a list of ids; empty when null or missing.
  std::vector<std::int64_t> token_ids(const std::string& key) const {
    if (!has_value(key)) return {};
    const json& value = *find(key);
    std::vector<std::int64_t> ids;
    for (const json& id : value.is_array() ? value : json::array({value})) {
      if (!id.is_number_integer() || id < 0 || id > kMaxTokenId)
        refuse(key, fmt::format("{} is {}; it must be a token id or a list of them", key, value.dump()),
               "correct the file or copy the model again");
      ids.push_back(id.get<std::int64_t>());
    }
    return ids;
  }

 private:
  Place place(std::string_view key) const {
    const auto at = text_.find(fmt::format("\"{}\"", key));
    if (at == std::string::npos) return {file_};
    return {file_, 1 + std::count(text_.begin(), text_.begin() + static_cast<std::ptrdiff_t>(at), '\n')};
  }

  std::string file_;
  std::string text_;
  json json_;
};

/// What transformers' LlamaConfig, MistralConfig and MixtralConfig hold for keys that a file leaves out.
ModelConfig class_defaults(const std::string& model_type) {
  const bool mixtral = model_type == "mixtral", mistral = mixtral || model_type == "mistral";
  return {.model_type = model_type,
          .vocab_size = 32000,
          .hidden_size = 4096,
          .intermediate_size = mistral ? 14336 : 11008,
          .num_hidden_layers = 32,
          .num_attention_heads = 32,
          .num_key_value_heads = mistral ? 8 : 0,  // 0: as many as attention heads
          .max_position_embeddings = mistral ? 131072 : 2048,
          .rms_norm_eps = mixtral ? 1e-5 : 1e-6,
          .rope_theta = mixtral ? 1e6 : 10000.0,
          .sliding_window = model_type == "mistral" ? 4096 : 0,
          .num_local_experts = mixtral ? 8 : 0,
          .num_experts_per_tok = mixtral ? 2 : 0,
          .router_aux_loss_coef = mixtral ? 0.001 : 0.0,
          .bos_token_id = 1,
          .eos_token_ids = {2}};
}

std::string supported_model_type(const ConfigFile& file) {
  const json* type = file.find("model_type");
  if (type == nullptr) file.refuse("model_type", "model_type is missing", "this must be a model's config.json");
  if (*type != "llama" && *type != "mistral" && *type != "mixtral")
    file.refuse(
        "model_type",
        fmt::format("model_type {} is not supported; it must be \"llama\", \"mistral\" or \"mixtral\"", type->dump()),
        "choose a base model of the Llama, Mistral or Mixtral family (tune models)");
  return type->get<std::string>();
}

/// What our decoder doesn't compute must not be read as if it did.
void refuse_other_mathematics(const ConfigFile& file) {
  for (const char* key : {"attention_bias", "mlp_bias"})
    if (file.flag(key, false))
      file.refuse(key, fmt::format("{} is true; linear layers with a bias are not supported", key),
                  "choose a base model without biases");
  if (file.has_value("hidden_act") && *file.find("hidden_act") != "silu")
    file.refuse("hidden_act", fmt::format("hidden_act is {}; it must be \"silu\"", file.find("hidden_act")->dump()),
                "choose a base model with SwiGLU layers");
  if (file.has_value("quantization_config"))
    file.refuse("quantization_config", "the weights are quantised (quantization_config is set), which is not supported",
                "use the unquantised model, or a GGUF file of it");
}

/// `section` is rope_scaling (transformers 4) or rope_parameters (5); null and "default" mean plain rope. Whatever else
/// may stand there changes the angles.
void refuse_scaled_rope(const ConfigFile& file, const std::string& section) {
  if (!file.has_value(section)) return;
  const json& rope = *file.find(section);
  const std::string remedy = "choose a base model with plain rotary embeddings (rope_scaling null)";
  if (!rope.is_object())
    file.refuse(section, fmt::format("{} is {}; it must be null or an object", section, rope.dump()), remedy);
  for (const char* key : {"rope_type", "type"})
    if (rope.contains(key) && rope[key] != "default")
      file.refuse(section, fmt::format("{} of type {} is not supported, refused", section, rope[key].dump()), remedy);
  for (const auto& [key, value] : rope.items()) {
    const bool plain =
        key == "rope_type" || key == "type" || key == "rope_theta" || (key == "partial_rotary_factor" && value == 1);
    if (!plain)
      file.refuse(section, fmt::format("{} with {} {} is not supported, refused", section, key, value.dump()), remedy);
  }
}

void refuse_scaled_rope(const ConfigFile& file) {
  refuse_scaled_rope(file, "rope_scaling");
  refuse_scaled_rope(file, "rope_parameters");
  if (file.has_value("partial_rotary_factor") && *file.find("partial_rotary_factor") != 1)
    file.refuse(
        "partial_rotary_factor",
        fmt::format("partial_rotary_factor {} is not supported, refused", file.find("partial_rotary_factor")->dump()),
        "choose a base model that rotates whole heads");
}

double rope_theta(const ConfigFile& file, double missing) {
  const json* value = file.find("rope_theta");
  if (file.has_value("rope_parameters") && file.find("rope_parameters")->contains("rope_theta"))
    value = &(*file.find("rope_parameters"))["rope_theta"];
  return file.positive("rope_theta", value, missing, 1e12);
}

void read_sizes(const ConfigFile& file, ModelConfig& config) {
  config.vocab_size = file.count("vocab_size", config.vocab_size, 1 << 24);
  config.hidden_size = file.count("hidden_size", config.hidden_size, 1 << 20);
  config.intermediate_size = file.count("intermediate_size", config.intermediate_size, 1 << 22);
  config.num_hidden_layers = file.count("num_hidden_layers", config.num_hidden_layers, 10'000);
  config.num_attention_heads = file.count("num_attention_heads", config.num_attention_heads, 1 << 14);
  config.max_position_embeddings =
      file.count("max_position_embeddings", config.max_position_embeddings, std::int64_t{1} << 31);

  const bool null_kv_heads = file.find("num_key_value_heads") != nullptr && !file.has_value("num_key_value_heads");
  if (null_kv_heads || config.num_key_value_heads == 0) config.num_key_value_heads = config.num_attention_heads;
  if (!null_kv_heads)
    config.num_key_value_heads = file.count("num_key_value_heads", config.num_key_value_heads, 1 << 14);
  if (config.num_attention_heads % config.num_key_value_heads != 0)
    file.refuse("num_key_value_heads",
                fmt::format("num_attention_heads {} is not a multiple of num_key_value_heads {}",
                            config.num_attention_heads, config.num_key_value_heads),
                "correct config.json or copy the model again");
}

void read_experts(const ConfigFile& file, ModelConfig& config) {
  if (config.model_type != "mixtral") return;
  config.num_local_experts = file.count("num_local_experts", config.num_local_experts, 1024);
  config.num_experts_per_tok = file.count("num_experts_per_tok", config.num_experts_per_tok, 1024);
  if (config.num_experts_per_tok > config.num_local_experts)
    file.refuse("num_experts_per_tok",
                fmt::format("num_experts_per_tok {} is more than num_local_experts {}", config.num_experts_per_tok,
                            config.num_local_experts),
                "correct config.json or copy the model again");
  const json* coefficient = file.find("router_aux_loss_coef");
  if (coefficient != nullptr && *coefficient != 0)
    config.router_aux_loss_coef = file.positive("router_aux_loss_coef", coefficient, 0.0, 1e3);
  if (coefficient != nullptr && *coefficient == 0) config.router_aux_loss_coef = 0.0;
  if (file.has_value("router_jitter_noise") && *file.find("router_jitter_noise") != 0)
    file.refuse("router_jitter_noise", "router_jitter_noise is not 0, which is not supported",
                "write 0.0, as the published model has it");
}

void read_head_dim(const ConfigFile& file, ModelConfig& config) {
  if (file.has_value("head_dim")) {
    config.head_dim = file.count("head_dim", 0, 1 << 14);
  } else if (config.hidden_size % config.num_attention_heads == 0) {
    config.head_dim = config.hidden_size / config.num_attention_heads;
  } else {
    file.refuse("hidden_size",
                fmt::format("hidden_size {} is not a multiple of num_attention_heads {}, and head_dim is not given",
                            config.hidden_size, config.num_attention_heads),
                "correct config.json or copy the model again");
  }
  if (config.head_dim % 2 != 0)
    file.refuse("head_dim", fmt::format("a head has {} elements; rotary embeddings need pairs", config.head_dim),
                "correct config.json or copy the model again");
}

void read_tokens(const ConfigFile& file, ModelConfig& config) {
  if (file.find("bos_token_id") != nullptr) {
    const auto ids = file.token_ids("bos_token_id");
    config.bos_token_id = ids.empty() ? std::nullopt : std::optional(ids.front());
  }
  if (file.find("eos_token_id") != nullptr) config.eos_token_ids = file.token_ids("eos_token_id");
}

void add_generation_tokens(const std::filesystem::path& folder, ModelConfig& config) {
  const std::filesystem::path path = folder / "generation_config.json";
  if (!std::filesystem::exists(path)) return;
  for (const std::int64_t id : ConfigFile(path).token_ids("eos_token_id"))
    if (std::find(config.eos_token_ids.begin(), config.eos_token_ids.end(), id) == config.eos_token_ids.end())
      config.eos_token_ids.push_back(id);
}

}  // namespace

ModelConfig read_model_config(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "config.json";
  if (!std::filesystem::exists(path))
    throw Error{Fault::data,
                {folder.string()},
                "has no config.json",
                "model.base_model must be a folder in Hugging Face layout or one .gguf file"};
  const ConfigFile file(path);
  ModelConfig config = class_defaults(supported_model_type(file));
  refuse_other_mathematics(file);
  refuse_scaled_rope(file);
  read_sizes(file, config);
  read_experts(file, config);
  read_head_dim(file, config);
  config.rms_norm_eps = file.positive("rms_norm_eps", file.find("rms_norm_eps"), config.rms_norm_eps, 1.0);
  config.rope_theta = rope_theta(file, config.rope_theta);
  if (file.find("sliding_window") != nullptr && config.model_type != "llama")
    config.sliding_window =
        file.has_value("sliding_window") ? file.count("sliding_window", 0, std::int64_t{1} << 31) : 0;
  config.tie_word_embeddings = file.flag("tie_word_embeddings", false);
  read_tokens(file, config);
  add_generation_tokens(folder, config);
  return config;
}

}  // namespace tune
