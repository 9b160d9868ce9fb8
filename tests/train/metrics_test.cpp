#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "checkpoints/files/atomic_file.h"
#include "train/metrics/jsonl.h"
#include "train/metrics/progress.h"
#include "train/metrics/reporter.h"
#include "train/metrics/tensorboard.h"

namespace tune {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Metrics : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ =
        fs::temp_directory_path() / (std::string("tune-metrics-") + test->name() + "-" + std::to_string(getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::vector<nlohmann::json> lines() const {
    std::vector<nlohmann::json> result;
    std::istringstream text(read_text(folder_ / "metrics.jsonl"));
    for (std::string line; std::getline(text, line);) result.push_back(nlohmann::json::parse(line));
    return result;
  }
  std::vector<std::int64_t> steps() const {
    std::vector<std::int64_t> result;
    for (const auto& line : lines()) result.push_back(line.at("step"));
    return result;
  }

  fs::path folder_;
};

StepReport report(std::int64_t step) { return {.step = step, .epoch = 0.5, .loss = 2.25, .learning_rate = 1e-4}; }

TEST_F(Metrics, LineHasWhatWasMeasuredAndNothingElse) {
  JsonLines(folder_ / "metrics.jsonl", 0, false).write({.step = 3, .epoch = 1.5, .eval_loss = 2.75});
  ASSERT_EQ(lines().size(), 1u);
  const nlohmann::json line = lines()[0];
  EXPECT_EQ(line.at("step"), 3);
  EXPECT_EQ(line.at("epoch"), 1.5);
  EXPECT_EQ(line.at("eval_loss"), 2.75);
  EXPECT_TRUE(line.contains("time"));
  EXPECT_EQ(line.size(), 4u);
}

TEST_F(Metrics, LineIsInTheFileBeforeTheWriterIsGone) {
  JsonLines jsonl(folder_ / "metrics.jsonl", 0, false);
  jsonl.write(report(1));
  EXPECT_THAT(steps(), ElementsAre(1));
}

TEST_F(Metrics, NumbersSurviveToTheLastBit) {
  const double loss = 2.0 / 3.0;
  JsonLines(folder_ / "metrics.jsonl", 0, false).write({.step = 1, .loss = loss});
  EXPECT_EQ(lines()[0].at("loss").get<double>(), loss);
}

TEST_F(Metrics, ResumedRunHasNoStepTwiceAndMissesNone) {
  {
    JsonLines first(folder_ / "metrics.jsonl", 0, false);
    for (const std::int64_t step : {0, 1, 2, 3, 4, 5}) first.write(report(step));
  }
  JsonLines second(folder_ / "metrics.jsonl", 3, true);  // the last checkpoint is that of step 3
  for (const std::int64_t step : {4, 5, 6}) second.write(report(step));
  EXPECT_THAT(steps(), ElementsAre(0, 1, 2, 3, 4, 5, 6));
}

TEST_F(Metrics, AnEvaluationThatWasCutShortIsWrittenAgain) {
  {
    JsonLines first(folder_ / "metrics.jsonl", 0, false);
    for (const std::int64_t step : {1, 2}) first.write(report(step));
    for (const std::int64_t step : {1, 2}) first.write({.step = step, .eval_loss = 2.0});
  }
  { const JsonLines evaluated(folder_ / "metrics.jsonl", 2, true); }
  EXPECT_THAT(steps(), ElementsAre(1, 2, 1, 2));
  { const JsonLines not_evaluated(folder_ / "metrics.jsonl", 2, false); }
  EXPECT_THAT(steps(), ElementsAre(1, 2, 1));
}

TEST_F(Metrics, TornLastLineIsDropped) {
  write_atomically(folder_ / "metrics.jsonl", "{\"step\":1}\n{\"step\":2}\n{\"step\":3,\"lo");
  JsonLines(folder_ / "metrics.jsonl", 3, true).write(report(4));
  EXPECT_THAT(steps(), ElementsAre(1, 2, 4));
}

TEST_F(Metrics, FreshRunForgetsAnOlderOne) {
  write_atomically(folder_ / "metrics.jsonl", "{\"step\":1}\n");
  JsonLines(folder_ / "metrics.jsonl", 0, false).write(report(0));
  EXPECT_THAT(steps(), ElementsAre(0));
}

TEST_F(Metrics, ReporterWritesWhatIsAskedFor) {
  Reporter({.report_to = {"jsonl"}}, folder_, 0, false, 10).report(report(1));
  EXPECT_TRUE(fs::exists(folder_ / "metrics.jsonl"));
  EXPECT_FALSE(fs::exists(folder_ / "tensorboard"));
}

// RFC 3720, appendix B.4.
TEST(Crc32c, KnownVectors) {
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43u);
  std::string rising;
  for (char c = 0; c < 32; ++c) rising += c;
  EXPECT_EQ(crc32c(rising), 0x46DD794Eu);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
}

template <typename T>
T number_at(const std::string& bytes, std::size_t offset) {
  T value{};
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

// The records of an event file, their checksums verified.
std::vector<std::string> records_of(const fs::path& folder) {
  const auto masked = [](std::string_view bytes) {
    const std::uint32_t crc = crc32c(bytes);
    return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
  };
  const std::string bytes = read_text(fs::directory_iterator(folder)->path());
  std::vector<std::string> records;
  for (std::size_t at = 0; at < bytes.size();) {
    const auto length = number_at<std::uint64_t>(bytes, at);
    EXPECT_EQ(number_at<std::uint32_t>(bytes, at + 8), masked(bytes.substr(at, 8)));
    records.push_back(bytes.substr(at + 12, length));
    EXPECT_EQ(number_at<std::uint32_t>(bytes, at + 12 + length), masked(records.back()));
    at += length + 16;
  }
  return records;
}

TEST_F(Metrics, TensorBoardRecordsAreFramedAndHoldTheValue) {
  TensorBoard(folder_, 0, false).write({.step = 300, .loss = 1.5});
  const std::vector<std::string> records = records_of(folder_);
  ASSERT_EQ(records.size(), 3u);
  EXPECT_THAT(records[0], HasSubstr("brain.Event:2"));
  EXPECT_THAT(records[1], HasSubstr(std::string("\x10\x00\x3A\x02\x08\x01", 6)));  // step 0, SessionLog START
  // field 2 (step) as varint: 300 = 0xAC 0x02; field 5: Summary { Value { tag, simple_value as fixed32 } }
  EXPECT_THAT(records[2], HasSubstr(std::string("\x10\xAC\x02", 3)));
  EXPECT_THAT(records[2], HasSubstr(std::string("\x0A\x0Atrain/loss\x15\x00\x00\xC0\x3F", 17)));
}

TEST_F(Metrics, ResumedTensorBoardTellsReadersWhereItGoesOn) {
  TensorBoard(folder_, 7, true).write(report(8));
  const std::vector<std::string> records = records_of(folder_);
  ASSERT_EQ(records.size(), 3u);
  EXPECT_THAT(records[1], HasSubstr(std::string("\x10\x08\x3A\x02\x08\x01", 6)));  // step 8, SessionLog START
}

TEST_F(Metrics, OnlyEventFilesAreRemoved) {
  TensorBoard(folder_, 0, false).write(report(1));
  write_atomically(folder_ / "notes.txt", "mine");
  remove_event_files(folder_);
  EXPECT_EQ(fs::directory_iterator(folder_)->path().filename(), "notes.txt");
  remove_event_files(folder_ / "absent");
}

TEST(Progress, PlainLinesElsewhereThanOnATerminal) {
  ::testing::internal::CaptureStderr();
  Progress progress(0, 2);
  progress.update({.step = 1, .epoch = 0.5, .loss = 2.5, .learning_rate = 1e-4, .tokens_per_s = 100});
  progress.update({.step = 1, .epoch = 0.5, .loss = 2.5});  // within ten seconds of the one before
  progress.update({.step = 2, .epoch = 1.0, .loss = 2.25, .learning_rate = 0.0, .tokens_per_s = 100});
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
  EXPECT_THAT(text, HasSubstr("step 1/2  epoch 0.50  loss 2.5000  lr 1.00e-04  100 tok/s"));
  EXPECT_THAT(text, HasSubstr("step 2/2"));
  EXPECT_THAT(text, ::testing::Not(HasSubstr("\r")));
}

}  // namespace
}  // namespace tune
