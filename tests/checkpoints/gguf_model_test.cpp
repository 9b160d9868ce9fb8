#include <cmath>
#include <random>

#include "checkpoints/base_model.h"
#include "checkpoints/gguf/blocks/blocks.h"
#include "checkpoints/gguf/model.h"
#include "checkpoints/gguf/names.h"
#include "checkpoints/gguf/writer.h"
#include "tests/checkpoints/files_helpers.h"

namespace tune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::byte> block(std::initializer_list<int> bytes, std::size_t size, int rest) {
  std::vector<std::byte> result;
  for (const int byte : bytes) result.push_back(static_cast<std::byte>(byte));
  result.resize(size, static_cast<std::byte>(rest));
  return result;
}

// Half precision: 1.0 = 0x3c00, 0.5 = 0x3800, -2.0 = 0xc000, 2^-24 (the smallest) = 0x0001.

TEST(GgufBlocks, DecodesQ4_0) {
  std::vector<float> values(32);
  dequantize(GgufType::q4_0, block({0x00, 0x38}, 18, 0x3f), values);  // d 0.5, low half 15, high half 3
  EXPECT_EQ(values[0], (15 - 8) * 0.5f);
  EXPECT_EQ(values[15], (15 - 8) * 0.5f);
  EXPECT_EQ(values[16], (3 - 8) * 0.5f);
  EXPECT_EQ(values[31], (3 - 8) * 0.5f);
}

TEST(GgufBlocks, DecodesQ4_1) {
  std::vector<float> values(32);
  dequantize(GgufType::q4_1, block({0x00, 0x38, 0x00, 0xc0}, 20, 0x3f), values);  // d 0.5, m -2
  EXPECT_EQ(values[0], 15 * 0.5f - 2);
  EXPECT_EQ(values[31], 3 * 0.5f - 2);
}

TEST(GgufBlocks, DecodesQ8_0WithASubnormalScale) {
  std::vector<float> values(32);
  dequantize(GgufType::q8_0, block({0x01, 0x00, 0x80}, 34, 0x7f), values);
  EXPECT_EQ(values[0], -128 * 0x1p-24f);
  EXPECT_EQ(values[31], 127 * 0x1p-24f);
}

TEST(GgufBlocks, Q8_0RoundsHalvesAwayFromZero) {
  std::vector<float> values(32, 0.0f);
  values[0] = 127.0f;  // the scale is 1
  values[1] = 2.5f;
  values[2] = -2.5f;
  values[3] = 0.5f;
  std::vector<std::byte> bytes(34);
  quantize(GgufType::q8_0, values, bytes);
  EXPECT_EQ(bytes[1], std::byte{0x3c});
  EXPECT_THAT(std::vector<std::byte>(bytes.begin() + 2, bytes.begin() + 6),
              ElementsAre(std::byte{127}, std::byte{3}, static_cast<std::byte>(-3), std::byte{1}));
}

TEST(GgufBlocks, Q8_0StaysWithinHalfAStepAndZeroStaysZero) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> values(32 * 64), decoded(values.size());
  for (float& value : values) value = normal(random);
  std::fill_n(values.begin(), 32, 0.0f);
  std::vector<std::byte> bytes(values.size() / 32 * 34);
  quantize(GgufType::q8_0, values, bytes);
  dequantize(GgufType::q8_0, bytes, decoded);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::size_t first = i / 32 * 32;
    float largest = 0;
    for (std::size_t j = first; j < first + 32; ++j) largest = std::max(largest, std::fabs(values[j]));
    // half a step, and the scale's rounding to 11 bits over at most 127 steps
    EXPECT_LE(std::fabs(values[i] - decoded[i]), largest / 127 * 0.5f + largest * 0x1p-11f) << i;
  }
  EXPECT_EQ(decoded[0], 0.0f);
}

TEST(GgufBlocks, PlainTypesRoundToNearestEven) {
  const std::vector<float> values = {1.0f + 0x1p-8f, 1.0f + 3 * 0x1p-8f, 1.0f + 0x1p-11f};
  std::vector<float> decoded(3);
  std::vector<std::byte> bytes(6);
  quantize(GgufType::bf16, values, bytes);
  dequantize(GgufType::bf16, bytes, decoded);
  EXPECT_THAT(decoded, ElementsAre(1.0f, 1.0f + 4 * 0x1p-8f, 1.0f));
  quantize(GgufType::f16, values, bytes);
  dequantize(GgufType::f16, bytes, decoded);
  EXPECT_THAT(decoded, ElementsAre(values[0], values[1], 1.0f));
}

TEST(GgufNames, TranslateBothWays) {
  EXPECT_EQ(huggingface_name("blk.17.ffn_down.weight"), "model.layers.17.mlp.down_proj.weight");
  EXPECT_EQ(gguf_name("model.layers.17.mlp.down_proj.weight"), "blk.17.ffn_down.weight");
  EXPECT_EQ(huggingface_name("output.weight"), "lm_head.weight");
  EXPECT_EQ(huggingface_name("blk.0.attn_q.bias"), std::nullopt);
  const std::string expert = "model.layers.17.block_sparse_moe.experts.12.w3.weight";
  EXPECT_EQ(gguf_name(expert), "blk.17.ffn_up_exps.weight");
  EXPECT_EQ(huggingface_name("blk.17.ffn_up_exps.weight", 12), expert);
  EXPECT_EQ(expert_number(expert), 12);
  EXPECT_EQ(expert_number("model.layers.17.block_sparse_moe.gate.weight"), std::nullopt);
  EXPECT_EQ(gguf_name("model.layers.17.block_sparse_moe.gate.weight"), "blk.17.ffn_gate_inp.weight");
  EXPECT_EQ(gguf_name("model.layers.0.self_attn.rotary_emb.inv_freq"), std::nullopt);
}

TEST(GgufNames, RowsInterleaveTheHalvesOfAHead) {
  std::vector<std::int64_t> rows;
  for (std::int64_t row = 0; row < 8; ++row) rows.push_back(gguf_row(row, 4));
  EXPECT_THAT(rows, ElementsAre(0, 2, 1, 3, 4, 6, 5, 7));
}

TEST(GgufNames, PermutingRowsIsTheInverseOfReadingThem) {
  const std::int64_t heads = 3, head_dim = 8, columns = 5;
  std::vector<float> rows(heads * head_dim * columns);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i);
  std::vector<float> stored = rows;
  permute_rows_for_gguf(stored, columns, head_dim);
  for (std::int64_t row = 0; row < heads * head_dim; ++row)
    for (std::int64_t column = 0; column < columns; ++column)
      EXPECT_EQ(stored[static_cast<std::size_t>(gguf_row(row, head_dim) * columns + column)],
                rows[static_cast<std::size_t>(row * columns + column)]);
}

GgufMetadata sizes() {
  return {{"general.architecture", "llama"},     {"llama.block_count", 1u},
          {"llama.context_length", 64u},         {"llama.embedding_length", 8u},
          {"llama.feed_forward_length", 16u},    {"llama.attention.head_count", 2u},
          {"llama.attention.head_count_kv", 1u}, {"llama.attention.layer_norm_rms_epsilon", 1e-5f},
          {"tokenizer.ggml.eos_token_id", 2u},   {"tokenizer.ggml.eot_token_id", 1u}};
}

/// One file with the given tensors, all filled with 0, 1, 2, ...
void write(const std::filesystem::path& path, const GgufMetadata& metadata,
           const std::vector<GgufTensorInfo>& tensors) {
  GgufWriter writer(path, metadata, tensors);
  for (const GgufTensorInfo& tensor : tensors) {
    std::vector<float> values(stored_bytes(tensor) / 4);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
    writer.write_tensor(tensor.name, bytes_of(values));
  }
  writer.close();
}

const GgufTensorInfo kEmbedding = {"token_embd.weight", GgufType::f32, {3, 8}};

TEST(GgufModel, ReadsTheConfiguration) {
  const TemporaryFolder folder;
  write(folder / "m.gguf", sizes(), {kEmbedding});
  const ModelConfig config = read_gguf_model_config(GgufFile(folder / "m.gguf"));
  EXPECT_EQ(config.model_type, "llama");
  EXPECT_EQ(config.vocab_size, 3);
  EXPECT_EQ(config.hidden_size, 8);
  EXPECT_EQ(config.head_dim, 4);
  EXPECT_EQ(config.num_key_value_heads, 1);
  EXPECT_EQ(config.rms_norm_eps, 1e-5) << "as the decimal was meant, not 9.99999974737875e-06";
  EXPECT_EQ(config.rope_theta, 10000.0);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(2, 1));
}

TEST(GgufModel, ReadsQueriesInHuggingFaceOrderWholeAndInParts) {
  const TemporaryFolder folder;
  write(folder / "m.gguf", sizes(), {kEmbedding, {"blk.0.attn_q.weight", GgufType::f32, {8, 8}}});
  const auto weights = open_gguf_weights(GgufFile(folder / "m.gguf"));
  std::vector<float> all(64), part(24);
  const char* name = "model.layers.0.self_attn.q_proj.weight";
  weights->read(name, Dtype::fp32, std::as_writable_bytes(std::span(all)));
  std::vector<float> first_of_row;
  for (std::size_t row = 0; row < 8; ++row) first_of_row.push_back(all[row * 8] / 8);
  EXPECT_THAT(first_of_row, ElementsAre(0, 2, 1, 3, 4, 6, 5, 7));
  weights->read_rows(name, 3, 3, Dtype::fp32, std::as_writable_bytes(std::span(part)));
  EXPECT_TRUE(std::equal(part.begin(), part.end(), all.begin() + 24));
}

TEST(GgufModel, RefusesWhatItCantCompute) {
  const TemporaryFolder folder;
  const auto refusal = [&](const std::string& key, GgufValue value, std::vector<GgufTensorInfo> more = {}) {
    GgufMetadata metadata = sizes();
    std::erase_if(metadata, [&](const auto& pair) { return pair.first == key; });
    metadata.emplace_back(key, std::move(value));
    more.insert(more.begin(), kEmbedding);
    write(folder / "m.gguf", metadata, more);
    return error_text(Fault::data, [&] { open_base_model(folder / "m.gguf"); });
  };
  EXPECT_THAT(refusal("general.architecture", "qwen2"), HasSubstr("has the architecture \"qwen2\"; llama is read"));
  EXPECT_THAT(refusal("general.type", "adapter"), HasSubstr("is an adapter, not a model"));
  EXPECT_THAT(refusal("llama.expert_count", 8u), HasSubstr("llama.expert_used_count"));
  for (const char* type : {"linear", "yarn", "longrope"})
    EXPECT_THAT(refusal("llama.rope.scaling.type", type), HasSubstr(fmt::format("rope scaling \"{}\"", type)));
  for (const char* key : {"llama.rope.scale_linear", "llama.rope.scaling.factor", "llama.rope.scaling.attn_factor",
                          "llama.rope.scaling.yarn_attn_factor"})
    EXPECT_THAT(refusal(key, 2.5f), HasSubstr(fmt::format("has {} 2.5, which is not supported", key)));
  EXPECT_THAT(refusal("llama.embedding_length", 0u), HasSubstr("llama.embedding_length 0; it must be 1 to"));
  EXPECT_THAT(refusal("llama.block_count", 5000u), HasSubstr("5000 layers, but has 1 tensors"));
  EXPECT_THAT(refusal("llama.attention.head_count_kv", 3u), HasSubstr("they must divide"));
  EXPECT_THAT(refusal("llama.rope.dimension_count", 2u), HasSubstr("rotates 2 dimensions of heads of 4"));
  EXPECT_THAT(refusal("split.count", 3u), HasSubstr("is part 1 of 3, but isn't named so"));
  EXPECT_THAT(refusal("x", 1u, {{"blk.0.ssm_a.weight", GgufType::f32, {4}}}), HasSubstr("no part of a llama model"));
  EXPECT_THAT(refusal("x", 1u, {{"rope_freqs.weight", GgufType::f32, {2}}}), HasSubstr("isn't all ones"));
  for (const char* name : {"rope_factors_long.weight", "rope_factors_short.weight"})
    EXPECT_THAT(refusal("x", 1u, {{name, GgufType::f32, {2}}}), HasSubstr("no part of a llama model"));
  EXPECT_THAT(refusal("x", 1u, {{"blk.0.attn_q.weight", GgufType::f32, {6, 8}}}), HasSubstr("no whole heads of 4"));
}

TEST(BaseModel, NamesEveryTensorThatDoesNotFit) {
  const TemporaryFolder folder;
  write(folder / "m.gguf", sizes(), {kEmbedding, {"blk.0.attn_norm.weight", GgufType::f32, {9}}});
  const std::string text = error_text(Fault::data, [&] { open_base_model(folder / "m.gguf"); });
  EXPECT_THAT(text, HasSubstr("missing: model.layers.0.self_attn.q_proj.weight, "));
  EXPECT_THAT(text, HasSubstr(", model.norm.weight; wrong shape: model.layers.0.input_layernorm.weight is [9]"));
}

TEST(BaseModel, NamesATensorThatCannotBeRead) {
  const TemporaryFolder folder;
  GgufMetadata metadata = sizes();
  std::erase_if(metadata, [](const auto& pair) { return pair.first == "llama.embedding_length"; });
  metadata.emplace_back("llama.embedding_length", 256u);
  const auto q2_k = static_cast<GgufType>(10);
  write(folder / "m.gguf", metadata, {{"token_embd.weight", q2_k, {3, 256}}});
  EXPECT_THAT(
      error_text(Fault::data, [&] { open_base_model(folder / "m.gguf"); }),
      HasSubstr("m.gguf: has the tensor token_embd.weight in Q2_K; F32, F16, BF16, Q4_0 to Q8_0 and Q4_K to Q6_K "
                "can be tuned and exported; take the F16, BF16 or Q8_0 file"));
}

TEST(BaseModel, SaysWhatIsThereInstead) {
  const TemporaryFolder folder;
  const auto refusal = [&](const std::filesystem::path& path) {
    return error_text(Fault::data, [&] { open_base_model(path); });
  };
  EXPECT_THAT(refusal(folder / "absent"), HasSubstr("there is no such folder or file"));
  EXPECT_THAT(refusal(folder.path()), HasSubstr("the folder is empty"));
  put(folder / "notes.txt", "hello");
  EXPECT_THAT(refusal(folder.path()), HasSubstr("no config.json; it holds notes.txt"));
  EXPECT_THAT(refusal(folder / "notes.txt"), HasSubstr("is no model file"));
  std::filesystem::create_directory(folder / "inner");
  put(folder / "inner/config.json", "{}");
  EXPECT_THAT(refusal(folder.path()), HasSubstr("did you mean"));
  put(folder / "model.gguf", std::string("PK\x03\x04", 4) + std::string(60, '\0'));
  EXPECT_THAT(refusal(folder / "model.gguf"), HasSubstr("pickle"));
  put(folder / "adapter_config.json", "{}");
  EXPECT_THAT(refusal(folder.path()), HasSubstr("holds an adapter, not a model"));
}

}  // namespace
}  // namespace tune
