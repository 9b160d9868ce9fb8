#include "checkpoints/gguf/model.h"

#include <fmt/format.h>

#include <cstring>

#include "checkpoints/gguf/blocks/blocks.h"
#include "checkpoints/gguf/names.h"
#include "checkpoints/huggingface/convert.h"
#include "recipes/schema/error.h"

namespace tune {
namespace {

void refuse(const GgufFile& file, const std::string& what, const std::string& remedy) {
  throw Error{Fault::data, {file.path().string()}, what, remedy};
}

class GgufWeights : public WeightSource {
 public:
  explicit GgufWeights(const std::filesystem::path& path) : file_(path), config_(read_gguf_config(file_)) {
    for (const GgufTensor& tensor : file_.tensors()) {
      if (tensor.name == "rope_freqs.weight") {
        require_plain_rope(tensor);
        continue;
      }
      const auto name = huggingface_name(tensor.name);
      if (!name) refuse(file_, fmt::format("tensor {} belongs to no llama model known here", tensor.name), "use another file");
      infos_.push_back({*name, traits_of(tensor.type)->name, tensor.shape});
      stored_.push_back(&tensor);
    }
  }

  const std::vector<TensorInfo>& tensors() const override { return infos_; }

  void read(std::string_view name, Dtype dtype, std::span<std::byte> destination) const override {
    const GgufTensor& tensor = *stored_[index_of(name)];
    const std::int64_t columns = tensor.shape.back(), rows = tensor.shape.size() == 1 ? 1 : tensor.shape[0];
    const std::size_t row_bytes = tensor.bytes.size() / static_cast<std::size_t>(rows);
    const std::size_t out_bytes = static_cast<std::size_t>(columns) * element_bytes(dtype);
    TUNE_CHECK(destination.size() == out_bytes * static_cast<std::size_t>(rows), "{} bytes for {}", destination.size(), name);
    const bool permuted = rows_are_permuted(name);
    std::vector<float> values(static_cast<std::size_t>(columns));
    for (std::int64_t row = 0; row < rows; ++row) {
      const auto from = static_cast<std::size_t>(permuted ? gguf_row(row, config_.head_dim) : row);
      dequantize(tensor.type, tensor.bytes.subspan(from * row_bytes, row_bytes), values);
      convert_elements("F32", std::as_bytes(std::span(values)), dtype, destination.subspan(static_cast<std::size_t>(row) * out_bytes, out_bytes));
    }
  }

 private:
  std::size_t index_of(std::string_view name) const {
    for (std::size_t i = 0; i < infos_.size(); ++i)
      if (infos_[i].name == name) return i;
    throw Bug(fmt::format("no tensor {} in {}", name, file_.path().string()));
  }

  void require_plain_rope(const GgufTensor& tensor) const {
    std::vector<float> factors(static_cast<std::size_t>(tensor.shape.back()));
    dequantize(tensor.type, tensor.bytes, factors);
    for (const float factor : factors)
      if (factor != 1.0f) refuse(file_, "rope_freqs.weight scales the rotary frequencies, which is not supported", "use a model without rope scaling");
  }

  GgufFile file_;
  ModelConfig config_;
  std::vector<TensorInfo> infos_;
  std::vector<const GgufTensor*> stored_;
};

}  // namespace

ModelConfig read_gguf_config(const GgufFile& file) {
  const std::string architecture = file.text("general.architecture");
  if (architecture != "llama") refuse(file, fmt::format("architecture is {}; llama is read", architecture), "use a Hugging Face folder, or another model");
  if (file.integer("llama.expert_count", 0) > 0) refuse(file, "is a mixture of experts, which is not supported", "use a dense model");
  if (const std::string scaling = file.text("llama.rope.scaling.type", "none"); scaling != "none")
    refuse(file, fmt::format("rope scaling is {}, which is not supported", scaling), "use a model without rope scaling");
  ModelConfig config;
  config.model_type = "llama";
  config.hidden_size = file.integer("llama.embedding_length");
  config.intermediate_size = file.integer("llama.feed_forward_length");
  config.num_hidden_layers = file.integer("llama.block_count");
  config.num_attention_heads = file.integer("llama.attention.head_count");
  config.num_key_value_heads = file.integer("llama.attention.head_count_kv", config.num_attention_heads);
  config.max_position_embeddings = file.integer("llama.context_length");
  config.rms_norm_eps = file.real("llama.attention.layer_norm_rms_epsilon");
  config.rope_theta = file.real("llama.rope.freq_base", 10000.0);
  config.tie_word_embeddings = file.find("output.weight") == nullptr;
  const std::int64_t heads = config.num_attention_heads, kv = config.num_key_value_heads;
  if (heads <= 0 || kv <= 0 || heads % kv != 0 || config.hidden_size <= 0 || config.hidden_size % heads != 0 ||
      config.num_hidden_layers <= 0 || config.num_hidden_layers > 10000 || config.max_position_embeddings <= 0)
    refuse(file, fmt::format("sizes that do not fit together: {} heads, {} kv heads, hidden size {}", heads, kv, config.hidden_size), "");
  config.head_dim = file.integer("llama.attention.key_length", config.hidden_size / heads);
  if (config.head_dim <= 0 || config.head_dim % 2 != 0 || file.integer("llama.rope.dimension_count", config.head_dim) != config.head_dim)
    refuse(file, fmt::format("head size {} with {} rotated dimensions is not supported", config.head_dim, file.integer("llama.rope.dimension_count", 0)), "");
  const GgufTensor* embedding = file.find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) refuse(file, "has no token_embd.weight", "");
  config.vocab_size = embedding->shape[0];
  if (file.has("tokenizer.ggml.bos_token_id")) config.bos_token_id = file.integer("tokenizer.ggml.bos_token_id");
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"})
    if (file.has(key)) config.eos_token_ids.push_back(file.integer(key));
  return config;
}

std::unique_ptr<WeightSource> open_gguf_weights(const std::filesystem::path& path) { return std::make_unique<GgufWeights>(path); }

}  // namespace tune
