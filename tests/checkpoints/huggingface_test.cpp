#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <random>

#include "checkpoints/base_model.h"
#include "checkpoints/huggingface/config.h"
#include "checkpoints/huggingface/convert.h"
#include "checkpoints/huggingface/folder.h"
#include "checkpoints/huggingface/model_tensors.h"
#include "checkpoints/huggingface/shards.h"
#include "checkpoints/safetensors/named_bytes.h"
#include "tests/checkpoints/files_helpers.h"

namespace tune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

const std::string kSizes =
    R"("vocab_size": 64, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
  "num_attention_heads": 4, "num_key_value_heads": 2)";

ModelConfig config_of(const std::string& text, const std::string& generation = "") {
  const TemporaryFolder folder;
  put(folder / "config.json", text);
  if (!generation.empty()) put(folder / "generation_config.json", generation);
  return read_model_config(folder.path());
}

std::string refusal(const std::string& text) {
  return error_text(Fault::data, [&] { config_of(text); });
}

std::string llama_with(const std::string& more) { return "{\"model_type\": \"llama\", " + kSizes + ",\n" + more + "}"; }

TEST(ModelConfig, ReadsTheSpellingOfTransformers4) {
  const ModelConfig config = config_of(
      "{\"model_type\": \"mistral\", " + kSizes +
          R"(, "max_position_embeddings": 128, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "rope_scaling": null,
             "sliding_window": 16, "tie_word_embeddings": true, "bos_token_id": 3, "eos_token_id": [4, 5],
             "torch_dtype": "bfloat16"})",
      R"({"eos_token_id": [5, 6]})");
  EXPECT_EQ(config.model_type, "mistral");
  EXPECT_EQ(config.vocab_size, 64);
  EXPECT_EQ(config.head_dim, 2);
  EXPECT_EQ(config.num_key_value_heads, 2);
  EXPECT_EQ(config.max_position_embeddings, 128);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_EQ(config.rope_theta, 1e6);
  EXPECT_EQ(config.sliding_window, 16);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.bos_token_id, 3);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(4, 5, 6));
}

TEST(ModelConfig, ReadsTheSpellingOfTransformers5) {
  const ModelConfig config = config_of(llama_with(
      R"("rope_theta": 5.0, "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}, "head_dim": 6,
         "dtype": "float32", "eos_token_id": 7)"));
  EXPECT_EQ(config.rope_theta, 1e6);  // rope_parameters wins
  EXPECT_EQ(config.head_dim, 6);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(7));
}

TEST(ModelConfig, MissingKeysAreThoseOfTheClass) {
  const ModelConfig llama = config_of(R"({"model_type": "llama"})");
  EXPECT_EQ(llama.num_key_value_heads, 32);
  EXPECT_EQ(llama.max_position_embeddings, 2048);
  EXPECT_EQ(llama.rms_norm_eps, 1e-6);
  EXPECT_EQ(llama.sliding_window, 0);
  EXPECT_EQ(llama.bos_token_id, 1);
  EXPECT_THAT(llama.eos_token_ids, ElementsAre(2));
  const ModelConfig mistral = config_of(R"({"model_type": "mistral"})");
  EXPECT_EQ(mistral.num_key_value_heads, 8);
  EXPECT_EQ(mistral.intermediate_size, 14336);
  EXPECT_EQ(mistral.sliding_window, 4096);
  EXPECT_EQ(config_of(R"({"model_type": "mistral", "sliding_window": null})").sliding_window, 0);
  EXPECT_EQ(config_of(R"({"model_type": "llama", "bos_token_id": null})").bos_token_id, std::nullopt);
}

TEST(ModelConfig, ReadsTinyLlamaAsPublished) {
  const ModelConfig config = config_of(R"({
  "architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 1, "eos_token_id": 2,
  "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5632,
  "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 22,
  "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 10000.0,
  "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.35.0", "use_cache": true,
  "vocab_size": 32000})");
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_EQ(config.num_key_value_heads, 4);
  std::int64_t parameters = 0;
  for (const TensorInfo& info : expected_tensors(config)) parameters += element_count(info);
  EXPECT_EQ(parameters, 1'100'048'384);
}

TEST(ModelConfig, ReadsExperts) {
  const ModelConfig published = config_of(R"({"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 3,
    "router_aux_loss_coef": 0.02, "sliding_window": null, "router_jitter_noise": 0.0})");
  EXPECT_EQ(published.num_local_experts, 4);
  EXPECT_EQ(published.num_experts_per_tok, 3);
  EXPECT_EQ(published.router_aux_loss_coef, 0.02);
  const ModelConfig defaults = config_of(R"({"model_type": "mixtral"})");  // of transformers' class
  EXPECT_EQ(defaults.num_local_experts, 8);
  EXPECT_EQ(defaults.num_experts_per_tok, 2);
  EXPECT_EQ(defaults.router_aux_loss_coef, 0.001);
  EXPECT_EQ(defaults.rope_theta, 1e6);
  EXPECT_EQ(defaults.sliding_window, 0);
  EXPECT_EQ(config_of(write_model_config(published, Dtype::bf16)).num_experts_per_tok, 3);
  EXPECT_THAT(refusal(R"({"model_type": "mixtral", "num_experts_per_tok": 9})"), HasSubstr("9 is more than"));
  EXPECT_THAT(refusal(R"({"model_type": "mixtral", "router_jitter_noise": 0.1})"), HasSubstr("router_jitter_noise"));
}

TEST(ModelConfig, RefusesOtherMathematics) {
  EXPECT_THAT(refusal(R"({"model_type": "qwen2"})"),
              HasSubstr("model_type \"qwen2\" is not supported; it must be \"llama\", \"mistral\" or \"mixtral\""));
  EXPECT_THAT(refusal(llama_with(R"("attention_bias": true)")), HasSubstr("attention_bias is true"));
  EXPECT_THAT(refusal(llama_with(R"("mlp_bias": true)")), HasSubstr("mlp_bias is true"));
  EXPECT_THAT(refusal(llama_with(R"("hidden_act": "gelu")")), HasSubstr("hidden_act is \"gelu\"; it must be \"silu\""));
  EXPECT_THAT(refusal(llama_with(R"("quantization_config": {"bits": 4})")), HasSubstr("the weights are quantised"));
}

TEST(ModelConfig, RefusesScaledRopeInEverySpelling) {
  for (const std::string section : {"rope_scaling", "rope_parameters"})
    for (const std::string key : {"type", "rope_type"})
      for (const std::string type : {"linear", "dynamic", "yarn", "llama3", "longrope", "su", "proportional"})
        EXPECT_THAT(
            refusal(llama_with(fmt::format(R"("{}": {{"{}": "{}", "factor": 2.0}})", section, key, type))),
            HasSubstr(fmt::format("config.json:3: {} of type \"{}\" is not supported, refused", section, type)));
  const auto with = [](const std::string& rope) { return refusal(llama_with("\"rope_scaling\": " + rope)); };
  EXPECT_THAT(with(R"({"type": "default", "rope_type": "linear"})"), HasSubstr("of type \"linear\""));
  EXPECT_THAT(with(R"({"rope_type": null})"), HasSubstr("of type null"));
  EXPECT_THAT(with(R"({"factor": 2.0})"), HasSubstr("rope_scaling with factor 2.0 is not supported, refused"));
  EXPECT_THAT(with(R"({"attention_factor": 1.2})"), HasSubstr("rope_scaling with attention_factor 1.2"));
  EXPECT_THAT(with(R"({"partial_rotary_factor": 0.5})"), HasSubstr("rope_scaling with partial_rotary_factor 0.5"));
  EXPECT_THAT(with(R"({"full_attention": {"rope_type": "default"}})"), HasSubstr("rope_scaling with full_attention"));
  EXPECT_THAT(with("\"linear\""), HasSubstr("rope_scaling is \"linear\"; it must be null or an object"));
  EXPECT_THAT(refusal(llama_with("\"partial_rotary_factor\": 0.25")), HasSubstr("partial_rotary_factor 0.25"));
}

TEST(ModelConfig, ReadsPlainRopeInEverySpelling) {
  for (const std::string rope : {"null", "{}", R"({"type": "default"})", R"({"rope_type": "default"})",
                                 R"({"rope_type": "default", "partial_rotary_factor": 1.0})"})
    for (const std::string section : {"rope_scaling", "rope_parameters"})
      EXPECT_EQ(config_of(llama_with(fmt::format(R"("rope_theta": 7.0, "{}": {})", section, rope))).rope_theta, 7.0);
}

TEST(ModelConfig, RefusesImpossibleNumbers) {
  EXPECT_THAT(refusal(R"({"model_type": "llama", "hidden_size": 0})"),
              HasSubstr("config.json:1: hidden_size is 0; it must be a whole number from 1 to 1048576"));
  EXPECT_THAT(refusal(R"({"model_type": "llama", "num_hidden_layers": 2.5})"), HasSubstr("num_hidden_layers is 2.5"));
  EXPECT_THAT(refusal(R"({"model_type": "llama", "vocab_size": 99999999999})"), HasSubstr("vocab_size is 99999999999"));
  EXPECT_THAT(refusal(R"({"model_type": "llama", "num_key_value_heads": 5})"),
              HasSubstr("num_attention_heads 32 is not a multiple of num_key_value_heads 5"));
  EXPECT_THAT(refusal(R"({"model_type": "llama", "hidden_size": 4097})"),
              HasSubstr("hidden_size 4097 is not a multiple of num_attention_heads 32, and head_dim is not given"));
  EXPECT_THAT(refusal(R"({"model_type": "llama", "head_dim": 3})"), HasSubstr("rotary embeddings need pairs"));
  EXPECT_THAT(refusal(R"({"model_type": "llama", "rope_theta": -1})"), HasSubstr("rope_theta is -1"));
  EXPECT_THAT(refusal(R"({"model_type": "llama", "eos_token_id": "x"})"), HasSubstr("eos_token_id is \"x\""));
  EXPECT_THAT(refusal(R"({"vocab_size": 3})"), HasSubstr("model_type is missing"));
  EXPECT_THAT(refusal("{"), HasSubstr("is not valid JSON"));
}

TEST(ModelConfig, WhatIsWrittenIsReadBack) {
  ModelConfig config = config_of("{\"model_type\": \"mistral\", " + kSizes + ", \"sliding_window\": 9}");
  config.rms_norm_eps = 1e-5;
  config.eos_token_ids = {2, 11};
  const std::string text = write_model_config(config, Dtype::bf16);
  EXPECT_THAT(text, HasSubstr("\"torch_dtype\": \"bfloat16\""));
  EXPECT_THAT(text, HasSubstr("\"MistralForCausalLM\""));
  const ModelConfig again = config_of(text);
  EXPECT_EQ(again.sliding_window, 9);
  EXPECT_EQ(again.rms_norm_eps, 1e-5);
  EXPECT_EQ(again.head_dim, config.head_dim);
  EXPECT_THAT(again.eos_token_ids, ElementsAre(2, 11));
}

TEST(ModelConfig, PatchingChangesTheDtypeOnly) {
  EXPECT_EQ(patch_model_config(R"({"z": 1e-05, "torch_dtype": "float32", "a": [1]})", Dtype::fp16),
            "{\n  \"z\": 1e-05,\n  \"torch_dtype\": \"float16\",\n  \"a\": [\n    1\n  ]\n}\n");
  const std::string version_5 = patch_model_config(R"({"dtype": "float32"})", Dtype::bf16);
  EXPECT_EQ(version_5, "{\n  \"dtype\": \"bfloat16\"\n}\n");
}

TEST(ModelConfig, PatchingTheDepthChangesTheDepthOnly) {
  EXPECT_EQ(patch_num_hidden_layers(R"({"z": 1e-05, "num_hidden_layers": 32, "a": null})", 48),
            "{\n  \"z\": 1e-05,\n  \"num_hidden_layers\": 48,\n  \"a\": null\n}\n");
  EXPECT_EQ(patch_num_hidden_layers("{}", 48), "{\n  \"num_hidden_layers\": 48\n}\n");  // the class has a default
}

float value_of(std::uint16_t bits, const std::string& dtype) {
  float value = 0;
  convert_elements(dtype, std::as_bytes(std::span(&bits, 1)), Dtype::fp32,
                   std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

std::uint16_t bits_of(float value, Dtype dtype) {
  std::uint16_t bits = 0;
  convert_elements("F32", std::as_bytes(std::span(&value, 1)), dtype, std::as_writable_bytes(std::span(&bits, 1)));
  return bits;
}

TEST(Convert, EverySixteenBitValueSurvivesTheWayThroughFp32) {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const int exponent = (i >> 10) & 31;
    const int mantissa = i & 1023;
    const float half = value_of(bits, "F16");
    if (exponent < 31) {  // IEEE 754 binary16, from its definition
      const double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
      ASSERT_EQ(half, i & 0x8000 ? -magnitude : magnitude) << i;
    }
    if (std::isnan(half))
      ASSERT_TRUE(std::isnan(value_of(bits_of(half, Dtype::fp16), "F16")));
    else
      ASSERT_EQ(bits_of(half, Dtype::fp16), bits) << i;
    const float brain = value_of(bits, "BF16");
    ASSERT_EQ(std::bit_cast<std::uint32_t>(brain), i << 16);
    if (std::isnan(brain))
      ASSERT_TRUE(std::isnan(value_of(bits_of(brain, Dtype::bf16), "BF16")));
    else
      ASSERT_EQ(bits_of(brain, Dtype::bf16), bits) << i;
  }
}

TEST(Convert, RoundsToNearestEven) {
  EXPECT_EQ(bits_of(std::bit_cast<float>(0x3f808000u), Dtype::bf16), 0x3f80);  // a tie goes to the even one
  EXPECT_EQ(bits_of(std::bit_cast<float>(0x3f818000u), Dtype::bf16), 0x3f82);
  EXPECT_EQ(bits_of(std::bit_cast<float>(0x3f808001u), Dtype::bf16), 0x3f81);
  EXPECT_EQ(bits_of(std::bit_cast<float>(0x7f7fffffu), Dtype::bf16), 0x7f80);  // beyond the largest: infinity
  std::mt19937 random(1);
  for (int round = 0; round < 200'000; ++round) {  // no representable value is nearer than the chosen one
    const float value =
        std::ldexp(static_cast<float>(random()) / 4294967296.0f + 0.5f, static_cast<int>(random() % 40) - 26);
    const std::uint16_t bits = bits_of(value, Dtype::fp16);
    if (bits >= 0x7bff) continue;
    const double error = std::abs(double{value_of(bits, "F16")} - value);
    const auto above = static_cast<std::uint16_t>(bits + 1);
    ASSERT_LE(error, std::abs(double{value_of(above, "F16")} - value)) << value;
    if (bits > 0) {
      ASSERT_LE(error, std::abs(double{value_of(bits - 1, "F16")} - value)) << value;
    }
    if (error == std::abs(double{value_of(above, "F16")} - value)) {
      ASSERT_EQ(bits % 2, 0) << value;
    }
  }
  EXPECT_EQ(bits_of(65519.996f, Dtype::fp16), 0x7bff);
  EXPECT_EQ(bits_of(65520.0f, Dtype::fp16), 0x7c00);
}

TEST(Convert, NeedsNoAlignment) {
  std::vector<char> stored(5);
  const float value = -3.5f;
  std::memcpy(stored.data() + 1, &value, 4);
  std::vector<char> wanted(3);
  convert_elements("F32", bytes_of(stored).subspan(1), Dtype::bf16,
                   std::as_writable_bytes(std::span(wanted)).subspan(1));
  std::uint16_t bits = 0;
  std::memcpy(&bits, wanted.data() + 1, 2);
  EXPECT_EQ(value_of(bits, "BF16"), value);
}

/// One-element tensors, each with its own value.
void put_tensors(const std::filesystem::path& path, const std::vector<std::pair<std::string, float>>& values) {
  std::vector<NamedBytes> tensors;
  for (const auto& [name, value] : values) tensors.push_back({name, "F32", {1}, std::as_bytes(std::span(&value, 1))});
  write_safetensors(path, tensors);
}

float read_one(const WeightSource& weights, const std::string& name) {
  float value = 0;
  weights.read(name, Dtype::fp32, std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

std::string folder_refusal(const TemporaryFolder& folder) {
  return error_text(Fault::data, [&] { open_huggingface_weights(folder.path()); });
}

TEST(Folder, ReadsASingleFile) {
  const TemporaryFolder folder;
  put_tensors(folder / "model.safetensors", {{"a", 1.5f}, {"model.layers.0.self_attn.rotary_emb.inv_freq", 1}});
  const auto weights = open_huggingface_weights(folder.path());
  ASSERT_EQ(weights->tensors().size(), 1u);
  EXPECT_EQ(read_one(*weights, "a"), 1.5f);
}

TEST(Folder, ReadsShardsAndIgnoresWhatTheIndexDoesNotName) {
  const TemporaryFolder folder;
  put_tensors(folder / "x.safetensors", {{"a", 1}, {"extra", 9}});
  put_tensors(folder / "y.safetensors", {{"b", 2}});
  put(folder / kShardIndexFile, R"({"metadata": {}, "weight_map": {"a": "x.safetensors", "b": "y.safetensors"}})");
  const auto weights = open_huggingface_weights(folder.path());
  EXPECT_EQ(read_one(*weights, "a"), 1);
  EXPECT_EQ(read_one(*weights, "b"), 2);
  EXPECT_EQ(weights->find("extra"), nullptr);
}

TEST(Folder, FollowsLinksToFilesElsewhere) {  // the layout of the hub's cache
  const TemporaryFolder blobs, folder;
  put_tensors(blobs / "0123", {{"a", 1}});
  std::filesystem::create_symlink(blobs / "0123", folder / "model.safetensors");
  EXPECT_EQ(read_one(*open_huggingface_weights(folder.path()), "a"), 1);
}

TEST(Folder, PrefersTheSingleFileToAStaleIndex) {
  const TemporaryFolder folder;
  put_tensors(folder / "model.safetensors", {{"a", 1}});
  put(folder / kShardIndexFile, R"({"weight_map": {"a": "gone.safetensors"}})");
  EXPECT_EQ(read_one(*open_huggingface_weights(folder.path()), "a"), 1);
}

TEST(Folder, RefusesADamagedIndex) {
  const TemporaryFolder folder;
  put_tensors(folder / "x.safetensors", {{"a", 1}});
  put_tensors(folder / "y.safetensors", {{"a", 1}, {"b", 1}});
  const auto refuse_index = [&](const std::string& map) {
    put(folder / kShardIndexFile, "{\"weight_map\": {" + map + "}}");
    return folder_refusal(folder);
  };
  for (const std::string name : {"../x.safetensors", "/tmp/x.safetensors", "..", "a\\\\x.safetensors", "x.bin"})
    EXPECT_THAT(refuse_index("\"a\": \"" + name + "\""), HasSubstr("it must be the name of a .safetensors file"));
  EXPECT_THAT(refuse_index("\"a\": 1"), HasSubstr("tensor \"a\" is said to be in 1"));
  EXPECT_THAT(refuse_index(""), HasSubstr("has no weight_map"));
  EXPECT_THAT(refuse_index(R"("a": "x.safetensors", "a": "y.safetensors")"), HasSubstr("key \"a\" occurs twice"));
  EXPECT_THAT(refuse_index(R"("a": "gone.safetensors")"), HasSubstr("gone.safetensors: is missing; "));
  EXPECT_THAT(refuse_index(R"("c": "x.safetensors")"), HasSubstr("x.safetensors: has no tensor \"c\""));
  EXPECT_THAT(refuse_index(R"("a": "x.safetensors", "b": "y.safetensors")"),
              HasSubstr("y.safetensors: tensor \"a\" is stored in x.safetensors as well"));
}

TEST(Folder, RefusesPickles) {
  for (const std::string name :
       {"pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "model.safetensors"}) {
    const TemporaryFolder folder;
    put(folder / name, "PK\x03\x04 archive/data.pkl");
    EXPECT_THAT(folder_refusal(folder), HasSubstr(name + ": is a Python pickle")) << name;
    EXPECT_THAT(folder_refusal(folder), HasSubstr("convert it once: python -c")) << name;
  }
}

TEST(Folder, RefusesMetasLayoutWithTheCommandThatConvertsIt) {
  const TemporaryFolder folder;
  for (const char* name : {"consolidated.00.pth", "consolidated.01.pth"})
    put(folder / name, "PK\x03\x04 archive/data.pkl");
  put(folder / "params.json", R"({"dim": 5120, "n_layers": 40, "n_heads": 40, "multiple_of": 256, "norm_eps": 1e-05})");
  const std::string path = folder.path().string();
  const std::string command = fmt::format(
      "convert/bin/pip install transformers==4.46.3 torch accelerate sentencepiece protobuf && convert/bin/python -m "
      "transformers.models.llama.convert_llama_weights_to_hf --input_dir '{0}' --num_shards 2 --llama_version 2 "
      "--output_dir '{0}-hf'",
      path);
  EXPECT_THAT(folder_refusal(folder), HasSubstr(path + ": holds Meta's own layout (2 consolidated.*.pth), Python"));
  EXPECT_THAT(folder_refusal(folder), HasSubstr("put its tokenizer.model into the folder, then convert it once: "));
  put(folder / "tokenizer.model", "");
  EXPECT_THAT(folder_refusal(folder), HasSubstr(command));
  EXPECT_THAT(folder_refusal(folder), Not(HasSubstr("put its")));
  const auto opening = [&](const std::filesystem::path& model) {
    return error_text(Fault::data, [&] { open_base_model(model); });
  };
  EXPECT_THAT(opening(folder.path()), HasSubstr(command));
  EXPECT_THAT(opening(folder / "consolidated.00.pth"), HasSubstr(command));
  EXPECT_THAT(opening(folder / ""), HasSubstr(fmt::format("--output_dir '{}-hf'", path)));
}

TEST(Folder, RefusesMistralsLayout) {
  const TemporaryFolder folder;
  put_tensors(folder / "consolidated.safetensors", {{"norm.weight", 1}});
  put(folder / "params.json", R"({"dim": 4096, "hidden_dim": 14336, "norm_eps": 1e-05})");
  const auto opening = [&] { return error_text(Fault::data, [&] { open_base_model(folder.path()); }); };
  EXPECT_THAT(opening(), HasSubstr("holds Mistral's own layout (consolidated.safetensors)"));
  EXPECT_THAT(opening(), HasSubstr("transformers.models.mistral.convert_mistral_weights_to_hf --input_dir"));
  EXPECT_THAT(opening(), HasSubstr("--model_size 7B --is_v3 --safe_serialization True --output_dir"));
  put(folder / "consolidated.00.pth", "PK\x03\x04");
  EXPECT_THAT(opening(), HasSubstr("holds Mistral's own layout (1 consolidated.*.pth), Python pickles"));
  EXPECT_THAT(opening(), HasSubstr("take the same model in Hugging Face layout"));
  put(folder / "config.json", llama_with("\"x\": 1"));  // as Mistral's repositories have them, beside the weights
  put_tensors(folder / "model.safetensors", {{"a", 1.5f}});
  EXPECT_THAT(opening(), HasSubstr("not part of the model: a"));  // which were read
}

TEST(Folder, ExplainsWhatItIsInstead) {
  const TemporaryFolder folder;
  EXPECT_THAT(folder_refusal(folder), HasSubstr("has neither model.safetensors nor model.safetensors.index.json"));
  put(folder / "adapter_config.json", "{}");
  EXPECT_THAT(folder_refusal(folder), HasSubstr("holds an adapter, not a model"));
  EXPECT_THAT(error_text(Fault::data, [&] { open_huggingface_weights(folder / "none"); }),
              HasSubstr("is not a folder"));
}

class ListedWeights : public WeightSource {
 public:
  explicit ListedWeights(std::vector<TensorInfo> tensors) : tensors_(std::move(tensors)) {}
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  void read(std::string_view, Dtype, std::span<std::byte>) const override {}

 private:
  std::vector<TensorInfo> tensors_;
};

TEST(ModelTensors, CountIsThatOfThePublishedModel) {
  ModelConfig mistral = config_of(R"({"model_type": "mistral"})");
  std::int64_t parameters = 0;
  for (const TensorInfo& info : expected_tensors(mistral)) parameters += element_count(info);
  EXPECT_EQ(parameters, 7'241'732'096);
}

TEST(ModelTensors, NamesEveryFaultAtOnce) {
  const ModelConfig config = config_of(llama_with("\"x\": 1"));
  auto tensors = expected_tensors(config);
  check_tensors(config, ListedWeights(tensors), "here");
  tensors[1].shape = {9};
  tensors.pop_back();
  tensors.pop_back();
  tensors.push_back({"surplus.weight", "F32", {1}});
  const std::string text = error_text(Fault::data, [&] { check_tensors(config, ListedWeights(tensors), "models/x"); });
  EXPECT_THAT(text, HasSubstr("models/x: the tensors don't fit the configuration: "));
  EXPECT_THAT(text, HasSubstr("missing: model.norm.weight, lm_head.weight; not part of the model: surplus.weight; "));
  EXPECT_THAT(text, HasSubstr("wrong shape: model.layers.0.input_layernorm.weight is [9], must be [8]"));
}

TEST(ModelTensors, ToleratesAStoredCopyOfATiedHead) {
  const ModelConfig config = config_of(llama_with("\"tie_word_embeddings\": true"));
  auto tensors = expected_tensors(config);
  for (const TensorInfo& info : tensors) EXPECT_THAT(info.name, Not(HasSubstr("lm_head")));
  tensors.push_back({"lm_head.weight", "F32", {64, 8}});
  check_tensors(config, ListedWeights(tensors), "here");
}

TEST(Shards, HoldWholeTensorsUpToTheLimit) {
  const auto shards = plan_shards({{"a", "F32", {2}}, {"b", "F32", {2}}, {"c", "F32", {100}}, {"d", "F32", {1}}}, 16);
  ASSERT_EQ(shards.size(), 3u);
  EXPECT_EQ(shards[0].file, "model-00001-of-00003.safetensors");
  EXPECT_EQ(shards[0].tensors.size(), 2u);
  EXPECT_EQ(shards[1].tensors[0].name, "c");
  EXPECT_THAT(format_shard_index(shards), HasSubstr("\"total_size\": 420"));
  EXPECT_THAT(format_shard_index(shards), HasSubstr("\"c\": \"model-00002-of-00003.safetensors\""));
  EXPECT_EQ(plan_shards({{"a", "F32", {2}}})[0].file, "model.safetensors");
}

}  // namespace
}  // namespace tune
