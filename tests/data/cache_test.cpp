#include "data/dataset.h"

#include <gmock/gmock.h>

#include "checkpoints/files/atomic_file.h"
#include "data_fakes.h"

namespace tune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class Dataset : public DataTest {
 protected:
  void SetUp() override {
    DataTest::SetUp();
    data_.chat_template = "none";
    data_.max_length = 8;
    data_.cache_dir = (folder_ / "cache").string();
  }

  void add(const std::string& name, const std::string& text, DatasetType type = DatasetType::prompt_completion) {
    data_.datasets.push_back({.path = file(name, text), .type = type});
  }

  std::unique_ptr<TokenDataset> tokens(Stage stage = Stage::sft, AuditCounts* counts = nullptr,
                                       bool evaluation = false) const {
    return tokenize(data_, data_.datasets, evaluation, tokenizer_, find_template(data_.chat_template), stage, seed_, {},
                    counts);
  }

  std::vector<std::filesystem::path> cache_files() const {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(data_.cache_dir)) files.push_back(entry.path());
    return files;
  }

  ByteTokenizer tokenizer_;
  DataOptions data_;
  std::int64_t seed_ = 42;
};

std::string row_text(const TokenDataset& rows, std::int64_t index) {
  return ByteTokenizer().decode(rows.row(index).ids, false);
}

std::vector<int> mask(const TokenDataset& rows, std::int64_t index) {
  const auto trained = rows.row(index).trained;
  return {trained.begin(), trained.end()};
}

std::string pair(const std::string& prompt, const std::string& completion) {
  return "{\"prompt\": \"" + prompt + "\", \"completion\": \"" + completion + "\"}\n";
}

// ---- rows

TEST_F(Dataset, CarriesIdsMaskAndPlace) {
  add("a.jsonl", "\n" + pair("Hi", "Ho"));
  const auto rows = tokens();
  ASSERT_EQ(rows->size(), 1);
  EXPECT_THAT(rows->row(0).ids, ElementsAre('H', 'i', 'H', 'o', 256));
  EXPECT_THAT(mask(*rows, 0), ElementsAre(0, 0, 1, 1, 1));
  EXPECT_EQ(to_string(rows->place(0)), data_.datasets[0].path + ":2");
  EXPECT_EQ(rows->source(0), 0);
}

TEST_F(Dataset, TrainsOnEverythingInPretraining) {
  add("a.jsonl", pair("Hi", "Ho"));
  EXPECT_THAT(mask(*tokens(Stage::pretrain), 0), ElementsAre(1, 1, 1, 1, 1));
}

TEST_F(Dataset, EndsPlainTextWithEos) {
  add("a.txt", "abc", DatasetType::text);
  EXPECT_EQ(row_text(*tokens(), 0), "abc</s>");
}

TEST_F(Dataset, KeepsTheOrderOfTheFilesOnManyThreads) {
  data_.max_length = 100;
  std::string one, two;
  for (int i = 0; i < 20000; ++i) one += pair(std::to_string(i), "answer " + std::to_string(i));
  for (int i = 0; i < 10; ++i) two += pair("x", std::to_string(i));
  add("a.jsonl", one);
  add("b.jsonl", two);
  const auto rows = tokens();
  ASSERT_EQ(rows->size(), 20010);
  for (int i = 0; i < 20000; i += 77) {
    ASSERT_EQ(row_text(*rows, i), std::to_string(i) + "answer " + std::to_string(i) + "</s>");
    ASSERT_EQ(rows->place(i).line, i + 1);
  }
  EXPECT_EQ(rows->source(19999), 0);
  EXPECT_EQ(rows->source(20000), 1);
}

TEST_F(Dataset, KeepsNothingWithoutACacheFolder) {
  data_.cache_dir.clear();
  add("a.jsonl", pair("Hi", "Ho"));
  EXPECT_EQ(row_text(*tokens(), 0), "HiHo</s>");
}

// ---- overflow

TEST_F(Dataset, RefusesRowsThatAreTooLongByDefault) {
  add("a.jsonl", pair("Hi", "Ho") + pair("Hi", "a long answer"));
  EXPECT_EQ(error_of([&] { tokens(); }),
            data_.datasets[0].path +
                ":2: the row has 16 tokens; data.max_length is 8; raise data.max_length, or choose "
                "data.overflow: truncate, split or drop");
  EXPECT_THAT(cache_files(), SizeIs(0));
}

TEST_F(Dataset, DropsRowsThatAreTooLong) {
  data_.overflow = Overflow::drop;
  add("a.jsonl", pair("Hi", "Ho") + pair("Hi", "a long answer"));
  AuditCounts counts;
  EXPECT_EQ(tokens(Stage::sft, &counts)->size(), 1);
  EXPECT_EQ(counts.total().dropped_too_long, 1);
  EXPECT_EQ(counts.total().kept, 1);
}

TEST_F(Dataset, TruncatesAtTheEndAndDropsWhatHasNoTarget) {
  data_.overflow = Overflow::truncate;
  add("a.jsonl", pair("Hi", "a long answer") + pair("a long question", "Ho"));
  AuditCounts counts;
  const auto rows = tokens(Stage::sft, &counts);
  ASSERT_EQ(rows->size(), 1);
  EXPECT_EQ(row_text(*rows, 0), "Hia long");
  EXPECT_EQ(counts.total().truncated, 2);
  EXPECT_EQ(counts.total().dropped_untrained, 1);
}

TEST_F(Dataset, SplitsIntoPiecesThatHaveATarget) {
  data_.overflow = Overflow::split;
  add("a.jsonl", pair("12345678", "abcdefghij"));
  AuditCounts counts;
  const auto rows = tokens(Stage::sft, &counts);
  ASSERT_EQ(rows->size(), 2);                 // the first piece is all prompt
  EXPECT_EQ(row_text(*rows, 0), "8abcdefg");  // each begins with the token before it, which it doesn't train
  EXPECT_THAT(mask(*rows, 0), ElementsAre(0, 1, 1, 1, 1, 1, 1, 1));
  EXPECT_EQ(row_text(*rows, 1), "ghij</s>");
  EXPECT_THAT(mask(*rows, 1), ElementsAre(0, 1, 1, 1, 1));
  EXPECT_EQ(counts.total().trained_tokens, 11);  // as many as if it had not been split
  EXPECT_EQ(rows->place(1).line, 1);
  EXPECT_EQ(counts.total().pieces, 2);
  EXPECT_EQ(counts.total().kept, 1);
}

TEST_F(Dataset, LosesNoTargetOfALongTextInParts) {
  data_.max_length = 1000;
  std::string text;
  while (text.size() < 300000) text += "word" + std::to_string(text.size()) + " ";
  tokenizer_.bos_id = 257;
  tokenizer_.add_bos = true;
  add("a.txt", text, DatasetType::text);
  EXPECT_THAT(error_of([&] { tokens(); }),
              HasSubstr(":1: the row has " + std::to_string(text.size() + 2) + " tokens; data.max_length is 1000; "));
  data_.overflow = Overflow::truncate;
  EXPECT_EQ(tokens()->size(), 1);
  data_.overflow = Overflow::split;
  AuditCounts counts;
  const auto rows = tokens(Stage::sft, &counts);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < rows->size(); ++i) {
    const RowView row = rows->row(i);
    if (i > 0) {
      EXPECT_EQ(row.ids[0], ids.back());
      EXPECT_EQ(row.trained[0], 0);
    }
    ids.insert(ids.end(), row.ids.begin() + (i > 0 ? 1 : 0), row.ids.end());
  }
  EXPECT_EQ(ids.front(), 257);
  EXPECT_EQ(ids.back(), 256);
  EXPECT_EQ(tokenizer_.decode(std::span(ids).subspan(1, ids.size() - 2), false), text);
  EXPECT_EQ(counts.total().rows, 1);
  EXPECT_EQ(counts.total().split, 1);
  EXPECT_EQ(counts.total().trained_tokens, static_cast<std::int64_t>(text.size()) + 1);
}

// ---- refusals

TEST_F(Dataset, CountsRefusedRows) {
  std::string rows;
  for (int i = 0; i < 13; ++i) rows += pair("Hi", "a long answer") + pair("Hi", "Ho");
  add("a.jsonl", rows);
  AuditCounts counts;
  const std::string message = error_of([&] { tokens(Stage::sft, &counts); });
  EXPECT_THAT(message, HasSubstr("a.jsonl:19: the row has"));
  EXPECT_THAT(message, ::testing::Not(HasSubstr("a.jsonl:21: the row has")));
  EXPECT_THAT(message, ::testing::EndsWith("\n… and 3 more rows"));
  EXPECT_EQ(counts.total().refused, 13);
  EXPECT_EQ(counts.total().kept, 13);
}

TEST_F(Dataset, RefusesDataSetsWithoutRows) {
  add("a.jsonl", "\n");
  EXPECT_EQ(error_of([&] { tokens(); }), data_.datasets[0].path + ": holds no rows; check the path and holdout_every");
  EXPECT_NE(error_of([&] { tokens(); }), "");  // nor the second time
}

TEST_F(Dataset, RefusesDataSetsOfWhichNothingIsLeft) {
  data_.overflow = Overflow::drop;
  add("a.jsonl", pair("Hi", "a long answer"));
  EXPECT_THAT(error_of([&] { tokens(); }),
              HasSubstr("none of its 1 rows can be learned from: 1 too long, 0 without a trained token"));
}

TEST_F(Dataset, WithoutACacheOfItsOwnLooksIntoAFinishedOne) {
  add("a.jsonl", pair("Hi", "Ho"));
  const std::filesystem::path finished = std::exchange(data_.cache_dir, "");
  const auto look = [&] {
    return tokenize(data_, data_.datasets, false, tokenizer_, find_template("none"), Stage::sft, seed_, finished)
        ->size();
  };
  EXPECT_EQ(look(), 1);
  EXPECT_FALSE(std::filesystem::exists(finished));
  data_.cache_dir = finished.string();
  tokens();
  write_atomically(cache_files().at(0), "damaged");
  data_.cache_dir.clear();
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(look(), 1);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("it is made again"));
}

TEST_F(Dataset, NamesTheFileThatIsNotThere) {
  data_.datasets.push_back({.path = "no/such.jsonl"});
  EXPECT_EQ(
      error_of([&] { tokens(); }),
      "no/such.jsonl: there is no such file; check data.datasets[].path; it is relative to where tune is started");
}

TEST_F(Dataset, SortsRefusalsOfReadingAndOfTokenising) {
  add("a.jsonl", pair("Hi", "a long answer") + "{\n" + pair("Hi", "another long answer"));
  const std::string message = error_of([&] { tokens(); });
  EXPECT_LT(message.find("a.jsonl:1: the row has"), message.find("a.jsonl:2:"));
  EXPECT_LT(message.find("a.jsonl:2:"), message.find("a.jsonl:3: the row has"));
  EXPECT_NE(message.find("a.jsonl:3: the row has"), std::string::npos);
}

// ---- the cache

TEST_F(Dataset, IsTokenisedOnce) {
  add("a.jsonl", pair("Hi", "Ho"));
  tokens();
  ASSERT_THAT(cache_files(), SizeIs(1));
  const auto written = std::filesystem::last_write_time(cache_files()[0]);
  AuditCounts counts;
  EXPECT_EQ(row_text(*tokens(Stage::sft, &counts), 0), "HiHo</s>");
  EXPECT_EQ(std::filesystem::last_write_time(cache_files().at(0)), written);
  EXPECT_EQ(counts.total().tokens, 5);  // counted when it was made
}

TEST_F(Dataset, IsTokenisedAgainWhenAnythingChangesThatMatters) {
  add("a.jsonl", pair("Hi", "Ho") + pair("A", "B"));
  std::size_t files = 0;
  const auto expect_new = [&](const char* what) {
    tokens();
    EXPECT_EQ(cache_files().size(), ++files) << what;
  };
  expect_new("first");
  file("a.jsonl", pair("Hi", "Ha") + pair("A", "B"));
  expect_new("data");
  data_.max_length = 7;
  expect_new("max_length");
  data_.train_on = TrainOn::last;
  expect_new("train_on");
  data_.chat_template = "chatml";
  data_.max_length = 200;
  expect_new("template");
  tokenizer_.fingerprint = "others";
  expect_new("tokenizer");
  data_.datasets[0].holdout_every = 5;
  expect_new("holdout_every");
  tokens(Stage::sft, nullptr, true);
  EXPECT_EQ(cache_files().size(), ++files) << "training or evaluation";
  data_.overflow = Overflow::split;
  expect_new("overflow");
  data_.datasets[0].field_names = {{"prompt", "prompt"}};
  expect_new("field_names");
  data_.datasets[0].field_roles = {{"bot", "assistant"}};
  expect_new("field_roles");
  data_.datasets[0].field_names = {{"instruction", "prompt"}, {"output", "completion"}};
  data_.datasets[0].type = DatasetType::alpaca;
  expect_new("type");
  data_.datasets.push_back(data_.datasets[0]);
  expect_new("the list of data sets");
  data_.datasets[0].weight = 3;
  data_.packing = false;
  tokens();
  EXPECT_EQ(cache_files().size(), files) << "weights and packing come later";
}

TEST_F(Dataset, IsMadeAgainWhenTheCacheIsDamaged) {
  add("a.jsonl", pair("Hi", "Ho") + pair("A", "B"));
  tokens();
  const std::filesystem::path cache = cache_files().at(0);
  std::string whole(std::filesystem::file_size(cache), '\0');
  std::ifstream(cache, std::ios::binary).read(whole.data(), static_cast<std::streamsize>(whole.size()));
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    std::ofstream(cache, std::ios::binary) << damaged;
    ::testing::internal::CaptureStderr();
    const auto rows = tokens();
    EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("it is made again")) << at;
    ASSERT_EQ(row_text(*rows, 1), "AB</s>") << at;
  }
  for (std::size_t length = 0; length < whole.size(); length += 7) {
    std::ofstream(cache, std::ios::binary) << whole.substr(0, length);
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(tokens()->size(), 2);
    EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("it is made again")) << length;
  }
}

}  // namespace
}  // namespace tune
