#include "checkpoints/gguf/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "checkpoints/gguf/blocks/blocks.h"
#include "checkpoints/gguf/names.h"
#include "checkpoints/huggingface/convert.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

constexpr std::int64_t kMaxSize = 1 << 24;  // of any axis: their products stay far from overflow
constexpr const char* kRopeFactors = "rope_freqs.weight";

[[noreturn]] void refuse(const GgufFile& file, const std::string& what, const std::string& remedy) {
  throw Error{Fault::data, {file.path().string()}, what, remedy};
}

class GgufWeights : public WeightSource {
 public:
  explicit GgufWeights(GgufFile file) : file_(std::move(file)), head_dim_(read_gguf_model_config(file_).head_dim) {
    for (const GgufTensor& tensor : file_.tensors()) {
      if (!is_readable(tensor.type))
        refuse(file_,
               fmt::format(
                   "has the tensor {} in {}; F32, F16, BF16, Q4_0 to Q8_0 and Q4_K to Q6_K can be tuned and exported",
                   tensor.name, traits_of(tensor.type)->name),
               "take the F16, BF16 or Q8_0 file of the same model");
      if (tensor.name == kRopeFactors) {
        require_plain_rope(tensor);
        continue;
      }
      const auto name = huggingface_name(tensor.name);
      if (!name)
        refuse(file_, fmt::format("has the tensor {}, which is no part of a llama model", tensor.name),
               "use the model's folder in Hugging Face layout");
      if (rows_are_permuted(*name) && (tensor.shape.size() != 2 || tensor.shape[0] % head_dim_ != 0))
        refuse(file_, fmt::format("has the tensor {} whose rows are no whole heads of {}", tensor.name, head_dim_),
               "convert the model again");
      if (holds_stacked_experts(tensor.name))
        append_experts(tensor);
      else
        append(*name, tensor, tensor.shape, 0);
    }
  }

  const std::vector<TensorInfo>& tensors() const override { return infos_; }

  void read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const override {
    const Part& part = stored(name);
    read_rows_of(part, name, 0, part.rows, dtype, destination);
    file_.release(bytes_of(part, 0, part.rows));
  }

  void read_rows(std::string_view name, std::int64_t first, std::int64_t count, Dtype dtype,
                 std::span<std::byte> destination) const override {
    const Part& part = stored(name);
    if (part.tensor->shape.size() == 1) return WeightSource::read_rows(name, first, count, dtype, destination);
    TUNE_CHECK(first >= 0 && count >= 0 && first + count <= part.rows, "rows {} to {} of {}", first, first + count,
               name);
    read_rows_of(part, name, first, count, dtype, destination);
    file_.release(bytes_of(part, first, count));
  }

 private:
  // Everything but the last axis; a vector is one row.
  static std::int64_t rows_of(const GgufTensor& tensor) {
    std::int64_t rows = 1;
    for (std::size_t axis = 0; axis + 1 < tensor.shape.size(); ++axis) rows *= tensor.shape[axis];
    return rows;
  }

  /// The rows of a stored tensor that are one of ours: all of them, or one expert's.
  struct Part {
    const GgufTensor* tensor;
    std::int64_t first_row, rows;
  };

  void append(std::string name, const GgufTensor& tensor, std::vector<std::int64_t> shape, std::int64_t first_row) {
    const std::int64_t rows = shape.size() == 1 ? 1 : shape[0];
    infos_.push_back({std::move(name), traits_of(tensor.type)->name, std::move(shape)});
    stored_.push_back({&tensor, first_row, rows});
  }

  void append_experts(const GgufTensor& tensor) {
    if (tensor.shape.size() != 3)
      refuse(file_, fmt::format("has the tensor {}, which is no stack of experts", tensor.name),
             "convert the model again");
    for (std::int64_t expert = 0; expert < tensor.shape[0]; ++expert)
      append(*huggingface_name(tensor.name, expert), tensor, {tensor.shape[1], tensor.shape[2]},
             expert * tensor.shape[1]);
  }

  static std::span<const std::byte> bytes_of(const Part& part, std::int64_t first, std::int64_t count) {
    const std::size_t row_bytes = part.tensor->bytes.size() / static_cast<std::size_t>(rows_of(*part.tensor));
    return part.tensor->bytes.subspan(static_cast<std::size_t>(part.first_row + first) * row_bytes,
                                      static_cast<std::size_t>(count) * row_bytes);
  }

  void read_rows_of(const Part& part, std::string_view name, std::int64_t first, std::int64_t count, Dtype dtype,
                    std::span<std::byte> destination) const {
    file_.check_unchanged();
    const auto columns = static_cast<std::size_t>(part.tensor->shape.back());
    const std::size_t out_bytes = columns * element_bytes(dtype);
    TUNE_CHECK(destination.size() == out_bytes * static_cast<std::size_t>(count), "{} bytes for {} rows of {}",
               destination.size(), count, name);
    const bool permuted = rows_are_permuted(name);
    std::vector<float> values(columns);
    for (std::int64_t row = 0; row < count; ++row) {
      const std::int64_t from = permuted ? gguf_row(first + row, head_dim_) : first + row;
      dequantize(part.tensor->type, bytes_of(part, from, 1), values);
      convert_elements("F32", std::as_bytes(std::span(values)), dtype,
                       destination.subspan(static_cast<std::size_t>(row) * out_bytes, out_bytes));
    }
  }

  const Part& stored(std::string_view name) const {
    for (std::size_t i = 0; i < infos_.size(); ++i)
      if (infos_[i].name == name) return stored_[i];
    throw Bug(fmt::format("no tensor {} in {}", name, file_.path().string()));
  }

  void require_plain_rope(const GgufTensor& tensor) const {
    if (tensor.shape.size() != 1 || tensor.shape[0] > kMaxSize)
      refuse(file_, fmt::format("has {} of an impossible shape", kRopeFactors), "convert the model again");
    std::vector<float> factors(static_cast<std::size_t>(tensor.shape[0]));
    dequantize(tensor.type, tensor.bytes, factors);
    if (!std::all_of(factors.begin(), factors.end(), [](float factor) { return factor == 1.0f; }))
      refuse(file_,
             fmt::format("scales the rotary frequencies ({} isn't all ones), which is not supported", kRopeFactors),
             "use a model without rope scaling");
  }

  GgufFile file_;
  std::int64_t head_dim_;
  std::vector<TensorInfo> infos_;
  std::vector<Part> stored_;  // in the order of infos_
};

// llama.cpp heeds these whatever the type of scaling is. Without a type, factor means linear; 0 means none.
constexpr std::array kRopeFactorKeys = {"llama.rope.scale_linear", "llama.rope.scaling.factor",
                                        "llama.rope.scaling.attn_factor", "llama.rope.scaling.yarn_attn_factor"};

void refuse_other_models(const GgufFile& file) {
  const std::string architecture = file.text("general.architecture", "");
  if (file.text("general.type", "model") == "adapter")
    refuse(file, "is an adapter, not a model", "give the model that it was made for");
  if (architecture != "llama")
    refuse(file, fmt::format("has the architecture \"{}\"; llama is read (Mistral files have it, too)", architecture),
           "use a Llama or Mistral model");
  const std::string scaling = file.text("llama.rope.scaling.type", "none");
  if (scaling != "none")
    refuse(file, fmt::format("has rope scaling \"{}\", which is not supported", scaling), "use a model without it");
  for (const char* key : kRopeFactorKeys) {
    const double factor = file.real(key, 0.0);
    if (factor != 0.0 && factor != 1.0)
      refuse(file, fmt::format("has {} {}, which is not supported", key, factor), "use a model without it");
  }
}

std::int64_t size_of(const GgufFile& file, const std::string& key,
                     std::optional<std::int64_t> fallback = std::nullopt) {
  const std::int64_t value = file.integer(key, fallback);
  if (value < 1 || value > kMaxSize)
    refuse(file, fmt::format("has {} {}; it must be 1 to {}", key, value, kMaxSize), "convert the model again");
  return value;
}

void check_heads(const GgufFile& file, const ModelConfig& config) {
  if (config.num_attention_heads % config.num_key_value_heads != 0)
    refuse(file,
           fmt::format("has {} heads for {} key-value heads; they must divide", config.num_attention_heads,
                       config.num_key_value_heads),
           "convert the model again");
  const std::int64_t rotated = file.integer("llama.rope.dimension_count", config.head_dim);
  if (config.head_dim % 2 != 0 || rotated != config.head_dim)
    refuse(file,
           fmt::format("rotates {} dimensions of heads of {}; all of an even number must be", rotated, config.head_dim),
           "use a model that rotates whole heads");
  const std::int64_t values = file.integer("llama.attention.value_length", config.head_dim);
  if (values != config.head_dim)
    refuse(file, fmt::format("has values of {} in heads of {}, which is not supported", values, config.head_dim),
           "use another model");
  if (!std::isfinite(config.rms_norm_eps) || config.rms_norm_eps < 0 || !std::isfinite(config.rope_theta) ||
      config.rope_theta <= 0)
    refuse(file, fmt::format("has the norm's epsilon {} and the rope base {}", config.rms_norm_eps, config.rope_theta),
           "convert the model again");
}

/// A float as the shortest decimal that it is the nearest to: 1e-05, as the model's config.json had it.
double as_written(double value) {
  const auto single = static_cast<float>(value);
  return std::isfinite(single) ? std::stod(fmt::format("{}", single)) : value;
}

void read_end_tokens(const GgufFile& file, ModelConfig& config) {
  const auto id = [&](const char* key) -> std::optional<std::int64_t> {
    if (!file.has(key)) return std::nullopt;
    const std::int64_t value = file.integer(key);
    return value >= 0 && value < config.vocab_size ? std::optional(value) : std::nullopt;
  };
  config.bos_token_id = id("tokenizer.ggml.bos_token_id");
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    const auto end = id(key);
    if (end && std::find(config.eos_token_ids.begin(), config.eos_token_ids.end(), *end) == config.eos_token_ids.end())
      config.eos_token_ids.push_back(*end);
  }
}

}  // namespace

ModelConfig read_gguf_model_config(const GgufFile& file) {
  refuse_other_models(file);
  ModelConfig config;
  const bool has_experts = file.integer("llama.expert_count", 0) > 0;
  config.model_type = has_experts ? "mixtral" : "llama";
  config.hidden_size = size_of(file, "llama.embedding_length");
  config.intermediate_size = size_of(file, "llama.feed_forward_length");
  config.num_hidden_layers = size_of(file, "llama.block_count");
  config.num_attention_heads = size_of(file, "llama.attention.head_count");
  config.num_key_value_heads = size_of(file, "llama.attention.head_count_kv", config.num_attention_heads);
  config.max_position_embeddings = size_of(file, "llama.context_length");
  config.head_dim = size_of(file, "llama.attention.key_length", config.hidden_size / config.num_attention_heads);
  config.rms_norm_eps = as_written(file.real("llama.attention.layer_norm_rms_epsilon"));
  config.rope_theta = as_written(file.real("llama.rope.freq_base", 10000.0));
  config.tie_word_embeddings = file.find("output.weight") == nullptr;
  if (has_experts) {
    config.num_local_experts = size_of(file, "llama.expert_count");
    config.num_experts_per_tok = size_of(file, "llama.expert_used_count");
    if (config.num_experts_per_tok > config.num_local_experts)
      refuse(file, fmt::format("uses {} of {} experts", config.num_experts_per_tok, config.num_local_experts),
             "convert the model again");
  }
  check_heads(file, config);
  if (config.num_hidden_layers > static_cast<std::int64_t>(file.tensors().size()))
    refuse(
        file,
        fmt::format("says that it has {} layers, but has {} tensors", config.num_hidden_layers, file.tensors().size()),
        "copy or download the file again");
  const GgufTensor* embedding = file.find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2)
    refuse(file, "has no token_embd.weight", "use a whole model, not a part or an adapter");
  config.vocab_size = embedding->shape[0];
  read_end_tokens(file, config);
  return config;
}

std::unique_ptr<WeightSource> open_gguf_weights(GgufFile file) {
  return std::make_unique<GgufWeights>(std::move(file));
}

}  // namespace tune
