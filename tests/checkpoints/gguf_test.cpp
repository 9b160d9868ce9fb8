#include <random>

#include "checkpoints/gguf/gguf.h"
#include "checkpoints/gguf/model.h"
#include "checkpoints/gguf/tokenizer.h"
#include "checkpoints/gguf/writer.h"
#include "tests/checkpoints/files_helpers.h"
#include "tests/checkpoints/gguf_bytes.h"

namespace tune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::uint64_t kHuge = std::uint64_t{1} << 63;

std::string small_file() {
  return GgufBytes()
      .head(2, 2)
      .pair_text("general.architecture", "llama")
      .pair_u32("llama.block_count", 1)
      .tensor("a", {2, 3}, 0, 0)
      .tensor("b", {32}, 8, 32)
      .data(24)
      .data(34)
      .bytes();
}

TEST(Gguf, ReadsBytesWrittenByHand) {
  const TemporaryFolder folder;
  put(folder / "m.gguf", small_file());
  const GgufFile file(folder / "m.gguf");
  EXPECT_EQ(file.text("general.architecture"), "llama");
  EXPECT_EQ(file.integer("llama.block_count"), 1);
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_THAT(file.find("a")->shape, ElementsAre(3, 2)) << "outermost first";
  EXPECT_EQ(file.find("a")->bytes.size(), 24u);
  EXPECT_EQ(file.find("b")->type, GgufType::q8_0);
  EXPECT_EQ(file.find("b")->bytes.size(), 34u);
  EXPECT_EQ(file.find("c"), nullptr);
}

TEST(Gguf, AsksForKeysByTheirType) {
  const TemporaryFolder folder;
  put(folder / "m.gguf", small_file());
  const GgufFile file(folder / "m.gguf");
  EXPECT_EQ(file.integer("absent", 7), 7);
  EXPECT_THAT(error_text(Fault::data, [&] { file.integer("absent"); }), HasSubstr("has no whole number absent"));
  EXPECT_THAT(error_text(Fault::data, [&] { file.text("llama.block_count"); }), HasSubstr("has no text"));
  EXPECT_THAT(error_text(Fault::data, [&] { file.texts("general.architecture"); }), HasSubstr("has no list of texts"));
  EXPECT_THAT(error_text(Fault::data, [&] { file.boolean("llama.block_count", true); }), HasSubstr("no bool"));
}

struct BadFile {
  const char* name;
  std::string bytes;
  const char* expected;
};

std::vector<BadFile> bad_files() {
  const auto file = [] { return GgufBytes(); };
  return {
      {"empty", "", "is not a GGUF file"},
      {"magic", "GGUX" + std::string(40, '\0'), "is not a GGUF file"},
      {"version 1", file().head(0, 0, 1).bytes(), "is GGUF version 1; 2 and 3 are read"},
      {"big-endian", file().head(0, 0, 0x03000000).bytes(), "is a big-endian GGUF file"},
      {"more tensors than bytes", file().head(kHuge, 0).bytes(), "says that it has 9223372036854775808 tensors"},
      {"more keys than bytes", file().head(0, kHuge).bytes(), "says that it has 9223372036854775808 metadata keys"},
      {"a key's length", file().head(0, 1).u64(kHuge).raw(std::string(16, 'k')).bytes(), "has a text of"},
      {"empty key", file().head(0, 1).pair_u32("", 1).bytes(), "has a metadata key of 0 bytes"},
      {"key twice", file().head(0, 2).pair_u32("k", 1).pair_u32("k", 2).bytes(), "has the metadata key k twice"},
      {"value type", file().head(0, 1).text("key").u32(13).u64(0).bytes(), "has a metadata value of unknown type 13"},
      {"a text's length", file().head(0, 1).text("key").u32(8).u64(~0ull).raw("abcd").bytes(), "has a text of"},
      {"array of arrays", file().head(0, 1).text("key").u32(9).u32(9).u64(1).bytes(), "unknown type 9"},
      {"array's type", file().head(0, 1).text("key").u32(9).u32(77).u64(1).bytes(), "unknown type 77"},
      {"array's length", file().head(0, 1).text("key").u32(9).u32(0).u64(kHuge).bytes(), "has the array key of"},
      {"array of u64 overflows", file().head(0, 1).text("key").u32(9).u32(10).u64((1ull << 61) + 1).bytes(),
       "has the array key of"},
      {"text inside an array", file().head(0, 1).text("key").u32(9).u32(8).u64(1).u64(kHuge).bytes(), "has a text of"},
      {"alignment 0", file().head(0, 1).pair_u32("general.alignment", 0).bytes(), "it must be a power of two"},
      {"alignment 24", file().head(0, 1).pair_u32("general.alignment", 24).bytes(), "it must be a power of two"},
      {"alignment 2^17", file().head(0, 1).pair_u32("general.alignment", 1 << 17).bytes(), "it must be a power of two"},
      {"alignment is text", file().head(0, 1).pair_text("general.alignment", "32").bytes(), "has no whole number"},
      {"tensor without name", file().head(1, 0).tensor("", {1}).data(4).bytes(), "has a tensor name of 0 bytes"},
      {"tensor's long name", file().head(1, 0).tensor(std::string(64, 'n'), {1}).data(4).bytes(), "name of 64 bytes"},
      {"tensor twice", file().head(2, 0).tensor("a", {8}).tensor("a", {8}, 0, 32).data(64).bytes(), "tensor a twice"},
      {"no dimension", file().head(1, 0).tensor("aaaaaaaa", {}).data(4).bytes(), "with 0 dimensions"},
      {"five dimensions", file().head(1, 0).tensor("a", {1, 1, 1, 1, 1}).data(4).bytes(), "with 5 dimensions"},
      {"dimension 0", file().head(1, 0).tensor("a", {0, 1}).data(4).bytes(), "of an impossible shape"},
      {"dimension -1", file().head(1, 0).tensor("a", {-1}).data(4).bytes(), "of an impossible shape"},
      {"shape overflows", file().head(1, 0).tensor("a", {1ll << 42, 1ll << 42}).data(4).bytes(), "impossible shape"},
      {"size overflows", file().head(1, 0).tensor("a", {1ll << 62}).data(4).bytes(), "of an impossible size"},
      {"size wraps to 0", file().head(1, 0).tensor("a", {(1ll << 62)}, 0).data(0).bytes(), "of an impossible size"},
      {"element type", file().head(1, 0).tensor("a", {256}, 4).data(144).bytes(), "of element type 4"},
      {"half a block", file().head(1, 0).tensor("a", {33}, 8).data(68).bytes(), "needs a multiple of 32"},
      {"first offset", file().head(1, 0).tensor("a", {8}, 0, 32).data(64).bytes(), "at offset 32; it must be at 0"},
      {"overlap", file().head(2, 0).tensor("a", {8}).tensor("b", {8}, 0, 0).data(64).bytes(), "it must be at 32"},
      {"gap", file().head(2, 0).tensor("a", {8}).tensor("b", {8}, 0, 64).data(96).bytes(), "it must be at 32"},
      {"no data", file().head(1, 0).tensor("a", {1024}).data(32).bytes(), "is cut off inside the tensor a"},
  };
}

TEST(Gguf, RefusesEveryBadFileWithItsReason) {
  const TemporaryFolder folder;
  for (const BadFile& bad : bad_files()) {
    put(folder / "bad.gguf", bad.bytes);
    const std::string text = error_text(Fault::data, [&] { GgufFile{folder / "bad.gguf"}; });
    EXPECT_THAT(text, HasSubstr(bad.expected)) << bad.name;
    EXPECT_THAT(text, HasSubstr("bad.gguf")) << bad.name;
  }
}

TEST(Gguf, ListsTypesThatItCannotRead) {
  const TemporaryFolder folder;
  put(folder / "m.gguf", GgufBytes().head(1, 0).tensor("a", {512, 3}, 11).data(3 * 2 * 110).bytes());
  const GgufFile file(folder / "m.gguf");
  EXPECT_STREQ(traits_of(file.find("a")->type)->name, "Q3_K");
  EXPECT_EQ(file.find("a")->bytes.size(), 660u);
  EXPECT_FALSE(is_readable(file.find("a")->type));
}

TEST(Gguf, SpacePrefixIsSentencePiecesUnlessSaid) {
  const TemporaryFolder folder;
  const auto prefix = [&](const char* model) {
    const GgufMetadata metadata = {{"tokenizer.ggml.model", model},
                                   {"tokenizer.ggml.tokens", std::vector<std::string>{"a"}}};
    GgufWriter(folder / "m.gguf", metadata, {}).close();
    return read_gguf_tokenizer(GgufFile(folder / "m.gguf")).add_space_prefix;
  };
  EXPECT_TRUE(prefix("llama"));
  EXPECT_FALSE(prefix("gpt2"));
}

TEST(Gguf, RefusesEveryTruncation) {
  const TemporaryFolder folder;
  const std::string whole = small_file();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    put(folder / "m.gguf", whole.substr(0, size));
    EXPECT_THROW(GgufFile{folder / "m.gguf"}, Error) << size << " of " << whole.size() << " bytes";
  }
}

// A whole tiny model with a tokenizer, through the writer.
void write_model(const std::filesystem::path& path) {
  const std::uint32_t hidden = 32, inner = 64, vocab = 5;
  GgufMetadata metadata = {{"general.architecture", "llama"},     {"llama.block_count", 1u},
                           {"llama.context_length", 64u},         {"llama.embedding_length", hidden},
                           {"llama.feed_forward_length", inner},  {"llama.attention.head_count", 4u},
                           {"llama.attention.head_count_kv", 2u}, {"llama.attention.layer_norm_rms_epsilon", 1e-5f}};
  append_gguf_tokenizer({.model = "llama",
                         .pre = "default",
                         .tokens = {"<unk>", "<s>", "</s>", "a", "b"},
                         .scores = {0, 0, 0, -1, -2},
                         .types = {2, 3, 3, 1, 1},
                         .bos_id = 1,
                         .eos_id = 2,
                         .add_bos = true,
                         .chat_template = "{{ messages }}"},
                        metadata);
  std::vector<GgufTensorInfo> tensors = {{"token_embd.weight", GgufType::f16, {vocab, hidden}}};
  const auto add = [&](const char* name, GgufType type, std::vector<std::int64_t> shape) {
    tensors.push_back({std::string("blk.0.") + name + ".weight", type, std::move(shape)});
  };
  add("attn_norm", GgufType::f32, {hidden});
  add("attn_q", GgufType::q8_0, {hidden, hidden});
  add("attn_k", GgufType::bf16, {hidden / 2, hidden});
  add("attn_v", GgufType::f32, {hidden / 2, hidden});
  add("attn_output", GgufType::q8_0, {hidden, hidden});
  add("ffn_norm", GgufType::f32, {hidden});
  add("ffn_gate", GgufType::f32, {inner, hidden});
  add("ffn_up", GgufType::f32, {inner, hidden});
  add("ffn_down", GgufType::f32, {hidden, inner});
  tensors.push_back({"output_norm.weight", GgufType::f32, {hidden}});
  GgufWriter writer(path, metadata, tensors);
  for (const GgufTensorInfo& tensor : tensors)
    writer.write_tensor(tensor.name, std::vector<std::byte>(stored_bytes(tensor), std::byte{0x3c}));
  writer.close();
}

TEST(Gguf, SurvivesFiveThousandFlippedBits) {
  const TemporaryFolder folder;
  write_model(folder / "m.gguf");
  const std::string whole = get(folder / "m.gguf");
  const std::size_t header = whole.find("output_norm.weight") + 64;
  std::mt19937_64 random(20261123);
  int refused = 0;
  for (int round = 0; round < 5000; ++round) {
    std::string flipped = whole;
    for (std::uint64_t flips = 1 + random() % 3; flips > 0; --flips)
      flipped[random() % header] ^= static_cast<char>(1u << (random() % 8));
    put(folder / "m.gguf", flipped);
    try {
      GgufFile file(folder / "m.gguf");
      read_gguf_tokenizer(file);
      const auto weights = open_gguf_weights(std::move(file));
      for (const TensorInfo& tensor : weights->tensors()) {
        std::vector<std::byte> values(static_cast<std::size_t>(element_count(tensor)) * 4);
        weights->read(tensor.name, Dtype::fp32, values);
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.fault(), Fault::data) << "round " << round << ": " << error.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 2500) << "most of a header is structure";
}

TEST(Gguf, WriterRoundTripKeepsEverything) {
  const TemporaryFolder folder;
  write_model(folder / "m.gguf");
  const GgufFile file(folder / "m.gguf");
  EXPECT_EQ(file.tensors().size(), 11u);
  EXPECT_THAT(file.find("blk.0.attn_k.weight")->shape, ElementsAre(16, 32));
  const GgufTokenizer tokenizer = read_gguf_tokenizer(file);
  EXPECT_EQ(tokenizer.model, "llama");
  EXPECT_THAT(tokenizer.tokens, ElementsAre("<unk>", "<s>", "</s>", "a", "b"));
  EXPECT_THAT(tokenizer.scores, ElementsAre(0, 0, 0, -1, -2));
  EXPECT_THAT(tokenizer.types, ElementsAre(2, 3, 3, 1, 1));
  EXPECT_EQ(tokenizer.bos_id, 1);
  EXPECT_EQ(tokenizer.eos_id, 2);
  EXPECT_FALSE(tokenizer.eot_id);
  EXPECT_TRUE(tokenizer.add_bos);
  EXPECT_EQ(tokenizer.chat_template, "{{ messages }}");
}

TEST(Gguf, AnUnfinishedFileIsNeverSeen) {
  const TemporaryFolder folder;
  { GgufWriter writer(folder / "m.gguf", {{"general.architecture", "llama"}}, {{"a", GgufType::f32, {4}}}); }
  EXPECT_TRUE(folder.names().empty());
}

}  // namespace
}  // namespace tune
