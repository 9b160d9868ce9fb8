#include "data/tokenizer/tokenizer.h"

#include <gmock/gmock.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <thread>

#include "data/tokenizer/added_tokens.h"
#include "data/tokenizer/byte_level_bpe.h"
#include "data/tokenizer/pre_tokenizer.h"
#include "data/tokenizer/sentencepiece.h"
#include "data/tokenizer/utf8.h"
#include "recipes/schema/error.h"

namespace tune {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const fs::path kShared = fs::path(TUNE_SOURCE_DIR) / ".." / "shared" / "data";

// <unk> <s> </s>, the 256 bytes from id 3 on, then a few words: ids 259 and up.
std::vector<SentencePiece> small_vocabulary() {
  std::vector<SentencePiece> pieces = {
      {"<unk>", 0, PieceType::unknown}, {"<s>", 0, PieceType::control}, {"</s>", 0, PieceType::control}};
  for (int byte = 0; byte < 256; ++byte) pieces.push_back({fmt::format("<0x{:02X}>", byte), 0, PieceType::byte});
  float score = 0;
  for (const char* text : {"\u2581h", "\u2581hi", "\u2581", "h", "i", "x"}) pieces.push_back({text, score -= 1});
  return pieces;
}
constexpr std::int32_t kHi = 260, kSpace = 261, kH = 262, kI = 263, kX = 264;

SentencePieceModel small_model() { return make_sentencepiece_model(small_vocabulary(), 0, 1, 2, true, "small.model"); }

std::unique_ptr<Tokenizer> small_tokenizer(DummyPrefix dummy_prefix, std::vector<AddedToken> more = {}) {
  more.push_back({.content = "<s>", .id = 1});
  more.push_back({.content = "</s>", .id = 2});
  auto tokenizer = std::make_unique<TokenizerWithAddedTokens>(
      make_sentencepiece(small_model(), dummy_prefix, "small.model"), std::move(more));
  tokenizer->bos_id = 1;
  tokenizer->eos_id = 2;
  return tokenizer;
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void expect_refused(const std::vector<SentencePiece>& pieces, const std::string& text) {
  try {
    make_sentencepiece_model(pieces, 0, 1, 2, true, "small.model");
    ADD_FAILURE() << "not refused: " << text;
  } catch (const Error& error) {
    EXPECT_EQ(error.fault(), Fault::data);
    EXPECT_THAT(error.what(), HasSubstr("small.model: " + text));
  }
}

TEST(SentencePieceModel, SurvivesBeingWrittenAndRead) {
  const SentencePieceModel model = small_model();
  const SentencePieceModel again = parse_sentencepiece_model(model.bytes, "again");
  EXPECT_EQ(again.bytes, model.bytes);
  EXPECT_EQ(again.pieces.size(), model.pieces.size());
  EXPECT_EQ(again.pieces[kHi].text, "\u2581hi");
  EXPECT_EQ(again.pieces[kHi].score, -2);
  EXPECT_EQ(again.pieces[3].type, PieceType::byte);
}

TEST(SentencePieceModel, RefusesPiecesTheLibraryCanNotBear) {
  auto pieces = small_vocabulary();
  pieces[kX].text = std::string(1025, 'x');
  expect_refused(pieces, "piece 264 has 1025 bytes; a piece has at most 1024");
  pieces[kX].text = std::string("x\0y", 3);
  expect_refused(pieces, "piece 264 holds a NUL byte");
  pieces[kX].text = "";
  expect_refused(pieces, "piece 264 is empty");
  pieces[kX].text = "h";
  expect_refused(pieces, "piece 264 is there twice");
  pieces[kX].text = "\xFF";
  expect_refused(pieces, "piece 264 isn't valid UTF-8");
  pieces[kX] = {"x", std::numeric_limits<float>::quiet_NaN()};
  expect_refused(pieces, "piece 264 has a score that isn't a finite number");
  expect_refused({}, "the ids of special pieces (unk 0, bos 1, eos 2, pad -1) must lie in the vocabulary of 0");
}

TEST(SentencePieceModel, RefusesANormalizersTable) {
  std::string bytes = small_model().bytes;
  bytes += std::string("\x1A\x03\x12\x01x", 5);  // normalizer_spec {precompiled_charsmap: "x"}
  EXPECT_THROW(parse_sentencepiece_model(bytes, "crafted.model"), Error);
}

// What gets past the reader must load and encode; nothing may crash (run under the sanitizers, too).
TEST(SentencePieceModel, SurvivesMutatedFiles) {
  constexpr int kSeed = 20261123, kMutations = 2000;
  SCOPED_TRACE(fmt::format("seed {}", kSeed));
  const std::string original = small_model().bytes;
  std::mt19937 random(kSeed);
  int refused = 0;
  for (int i = 0; i < kMutations; ++i) {
    std::string bytes = original;
    if (i % 4 == 0) {
      bytes.resize(random() % bytes.size());
    } else {
      for (unsigned flips = 1 + random() % 4; flips > 0; --flips)
        bytes[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
    }
    try {
      const auto model =
          make_sentencepiece(parse_sentencepiece_model(bytes, "mutated"), DummyPrefix::every_stretch, "mutated");
      Encoding encoding;
      model->encode("hi x\n\xF0\x9F\x99\x82", 0, Before::nothing, encoding);
      EXPECT_EQ(encoding.ids.size(), encoding.begin.size());
    } catch (const Error& error) {
      EXPECT_EQ(error.fault(), Fault::data);
      ++refused;
    }
  }
  EXPECT_GT(refused, kMutations / 10);
  EXPECT_LT(refused, kMutations - 50);  // some do reach the library
}

TEST(SentencePiece, GivesEachStretchADummyPrefixUnderLegacy) {
  const auto tokenizer = small_tokenizer(DummyPrefix::every_stretch);
  const Encoding encoding = tokenizer->encode("hi</s>hi");
  EXPECT_THAT(encoding.ids, ElementsAre(kHi, 2, kHi));
  EXPECT_THAT(encoding.begin, ElementsAre(0, 2, 6));
}

TEST(SentencePiece, GivesOnlyTheTextsStartADummyPrefixOtherwise) {
  const auto tokenizer = small_tokenizer(DummyPrefix::text_start);
  EXPECT_THAT(tokenizer->encode("hi</s>hi").ids, ElementsAre(kHi, 2, kH, kI));
  EXPECT_THAT(tokenizer->encode("</s>hi").ids, ElementsAre(2, kH, kI));
}

TEST(SentencePiece, FallsBackToBytesThatShareAnOffset) {
  const auto tokenizer = small_tokenizer(DummyPrefix::every_stretch);
  const Encoding encoding = tokenizer->encode("x\u00e9x");
  EXPECT_THAT(encoding.ids, ElementsAre(kSpace, kX, 3 + 0xC3, 3 + 0xA9, kX));
  EXPECT_THAT(encoding.begin, ElementsAre(0, 0, 1, 1, 3));
  EXPECT_EQ(tokenizer->decode(encoding.ids), "x\u00e9x");
  EXPECT_EQ(tokenizer->decode(std::vector<std::int32_t>{kX, 3 + 0xC3, kX}), "x\uFFFDx");
}

TEST(SentencePiece, LeavesSpecialTextAloneWhenPlain) {
  const auto tokenizer = small_tokenizer(DummyPrefix::every_stretch);
  const Encoding encoding = tokenizer->encode_plain("</s>");
  EXPECT_THAT(encoding.ids, ElementsAre(kSpace, 3 + '<', 3 + '/', 3 + 's', 3 + '>'));
  EXPECT_EQ(tokenizer->decode(std::vector<std::int32_t>{1, kHi, 2}), "hi");
  EXPECT_EQ(tokenizer->decode(std::vector<std::int32_t>{1, kHi, 2}, false), "<s> hi</s>");
}

TEST(SentencePiece, GivesALaterPartOfATextNoDummyPrefix) {
  for (const DummyPrefix prefix : {DummyPrefix::every_stretch, DummyPrefix::text_start, DummyPrefix::never}) {
    const auto tokenizer = small_tokenizer(prefix);
    std::vector<std::int32_t> ids = tokenizer->encode("hi", TextPart::first).ids;
    for (const auto& [text, part] : {std::pair{" hi\n", TextPart::middle}, std::pair{"hi</s>hi", TextPart::last}}) {
      const auto more = tokenizer->encode(text, part).ids;
      ids.insert(ids.end(), more.begin(), more.end());
    }
    EXPECT_EQ(ids, tokenizer->encode("hi hi\nhi</s>hi").ids);
  }
}

TEST(AddedTokens, TakeTheLongestAndSwallowSpaces) {
  const auto tokenizer =
      small_tokenizer(DummyPrefix::text_start, {{.content = "<a>", .id = 300},
                                                {.content = "<a>>", .id = 301},
                                                {.content = "<b>", .id = 302, .lstrip = true, .rstrip = true},
                                                {.content = "one", .id = 303, .single_word = true}});
  EXPECT_THAT(tokenizer->encode("<a>><a>").ids, ElementsAre(301, 300));
  EXPECT_THAT(tokenizer->encode("x  <b> \nx").ids, ElementsAre(kSpace, kX, 302, kX));
  EXPECT_THAT(tokenizer->encode("<a>one").ids, ElementsAre(300, 303));
  EXPECT_THAT(tokenizer->encode("<a>xone").ids, testing::Not(testing::Contains(303)));
  EXPECT_EQ(tokenizer->vocab_size(), 304);
  EXPECT_EQ(tokenizer->token_id("<b>"), 302);
  EXPECT_TRUE(tokenizer->is_special(302));
  EXPECT_FALSE(tokenizer->is_special(kHi));
}

BpeModel small_bpe() {
  BpeModel model{.merges = {{"a", "a"}, {"aa", "aa"}, {"\u0120", "a"}}};
  for (const char* token : {"a", "b", "\u0120", "aa", "aaaa", "\u0120a", "1", "\u00c3", "\u00a9", "\u010a"}) {
    model.vocabulary.emplace(token, static_cast<std::int32_t>(model.vocabulary.size()));
  }
  return model;
}

TEST(ByteLevelBpe, MergesByRankLeftmostFirst) {
  const auto model = make_byte_level_bpe(small_bpe(), {std::string(kGpt2Words)}, "small");
  Encoding encoding;
  model->encode("aaaaaaa a\u00e9", 10, Before::nothing, encoding);
  const auto id = [&](const char* token) { return *model->token_id(token); };
  EXPECT_THAT(encoding.ids, ElementsAre(id("aaaa"), id("aa"), id("a"), id("\u0120a"), id("\u00c3"), id("\u00a9")));
  EXPECT_THAT(encoding.begin, ElementsAre(10, 14, 16, 17, 19, 19));
  const std::vector<std::string> tokens = {"\u0120a", "\u00c3", "\u00a9", "\u00c3"};
  EXPECT_EQ(model->decode(tokens), " a\u00e9\uFFFD");
}

TEST(ByteLevelBpe, TakesAMillionEqualLettersInLessThanASecond) {
  const auto model = make_byte_level_bpe(small_bpe(), {std::string(kGpt2Words)}, "small");
  const auto start = std::chrono::steady_clock::now();
  Encoding encoding;
  model->encode(std::string(1'000'000, 'a'), 0, Before::nothing, encoding);
  EXPECT_EQ(encoding.ids.size(), 250'000u);
  // Quadratic behaviour would take minutes; the bound leaves room for a busy machine and the sanitizers.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST(ByteLevelBpe, RefusesAMergeOfUnknownTokens) {
  BpeModel model = small_bpe();
  model.merges.emplace_back("a", "z");
  try {
    make_byte_level_bpe(model, {}, "tokenizer.json");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(),
                HasSubstr("tokenizer.json: merge 3 needs the token \"az\", which isn't in the vocabulary"));
  }
}

TEST(PreTokenizer, CutsAsGpt2WithEachDigitAlone) {
  const PreTokenizer words({std::string(kEachDigit), std::string(kGpt2Words)}, "small");
  EXPECT_THAT(words.split("It's 12  o'clock\n\n!"),
              ElementsAre("It", "'s", " ", "1", "2", " ", " o", "'", "clock", "\n", "\n", "!"));
  EXPECT_THAT(words.split(""), ElementsAre());
}

TEST(PreTokenizer, NamesABrokenExpression) {
  try {
    const PreTokenizer words({"(a"}, "tokenizer.json");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(),
                HasSubstr("tokenizer.json: the pre-tokenizer's expression \"(a\" isn't understood at character 2"));
  }
}

TEST(Utf8, ReplacesBrokenSequencesAsUnicodeRecommends) {
  EXPECT_EQ(utf8_lossy("a\xF0\x9F\x99z"), "a\uFFFDz");
  EXPECT_EQ(utf8_lossy("\xE4\xB8\xE4\xB8\xAD"), "\uFFFD\u4E2D");
  EXPECT_EQ(utf8_lossy("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");  // a surrogate
  EXPECT_EQ(strip("\u3000 \x1c x y\t\u00a0\n"), "x y");
}

TEST(OpenTokenizer, NamesWhatIsMissing) {
  const fs::path folder = fs::path(testing::TempDir()) / "no_tokenizer";
  fs::create_directories(folder);
  try {
    open_tokenizer(folder);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.fault(), Fault::data);
    EXPECT_THAT(error.what(),
                HasSubstr("no_tokenizer: the folder has neither tokenizer.model nor tokenizer.json; copy"));
  }
}

TEST(OpenTokenizer, ReadsASentencePieceFolder) {
  const fs::path folder = fs::path(testing::TempDir()) / "small_tokenizer";
  fs::create_directories(folder);
  std::ofstream(folder / "tokenizer.model", std::ios::binary) << small_model().bytes;
  std::ofstream(folder / "tokenizer_config.json")
      << R"({"legacy": false, "add_bos_token": true, "chat_template": "t", "eos_token": {"content": "</s>"}, "pad_token": "<unk>"})";
  const auto tokenizer = open_tokenizer(folder);
  EXPECT_EQ(tokenizer->bos_id, 1);
  EXPECT_EQ(tokenizer->eos_id, 2);
  EXPECT_EQ(tokenizer->pad_id, 0);
  EXPECT_EQ(tokenizer->chat_template, "t");
  EXPECT_EQ(tokenizer->fingerprint.size(), 32u);
  EXPECT_TRUE(tokenizer->add_bos);
  EXPECT_THAT(tokenizer->encode("hi</s>hi").ids, ElementsAre(kHi, 2, kH, kI));
  const std::string before = tokenizer->fingerprint;
  std::ofstream(folder / "tokenizer_config.json") << R"({"legacy": true})";
  EXPECT_NE(open_tokenizer(folder)->fingerprint, before);
  std::ofstream(folder / "tokenizer_config.json") << R"({"eos_token": "<end>"})";
  EXPECT_THROW(open_tokenizer(folder), Error);
}

TEST(OpenTokenizer, EncodesFromSeveralThreads) {
  const auto tokenizer = small_tokenizer(DummyPrefix::text_start);
  const std::vector<std::int32_t> wanted = tokenizer->encode("hi x</s>hi").ids;
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) wrong += tokenizer->encode("hi x</s>hi").ids != wanted;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Llama2Tokenizer, EqualsTheGoldenVectors) {
  const fs::path folder = kShared / "tokenizer-llama2";
  if (!fs::exists(folder)) GTEST_SKIP() << "../shared/data isn't here";
  const auto tokenizer = open_tokenizer(folder);
  const std::string separator = "\n__ggml_vocab_test__\n", texts = read_file(folder / "golden.inp");
  std::istringstream wanted(read_file(folder / "golden.out"));
  int count = 0;
  for (std::size_t begin = 0; begin <= texts.size(); ++count) {
    const std::size_t end = std::min(texts.find(separator, begin), texts.size());
    std::string line;
    std::getline(wanted, line);
    std::istringstream numbers(line);
    const std::vector<std::int32_t> ids{std::istream_iterator<std::int32_t>(numbers), {}};
    EXPECT_EQ(tokenizer->encode_plain(texts.substr(begin, end - begin)).ids, ids) << texts.substr(begin, end - begin);
    begin = end + separator.size();
  }
  EXPECT_EQ(count, 47);
}

}  // namespace
}  // namespace tune
