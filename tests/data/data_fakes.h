#pragma once
#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "data/loader.h"
#include "data/tokenizer/tokenizer.h"
#include "recipes/schema/error.h"

namespace tune {

/// One id a byte (its value); "</s>" is 256 and EOS.
class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer() {
    eos_id = 256;
    eos_token = "</s>";
    fingerprint = "bytes";
  }
  using Tokenizer::encode;
  Encoding encode(std::string_view text, TextPart) const override {
    Encoding encoding;
    for (std::size_t i = 0; i < text.size();) {
      const bool eos = text.substr(i).starts_with(eos_token);
      encoding.ids.push_back(eos ? 256 : static_cast<unsigned char>(text[i]));
      encoding.begin.push_back(static_cast<std::int32_t>(i));
      i += eos ? eos_token.size() : 1;
    }
    return encoding;
  }
  std::string decode(std::span<const std::int32_t> ids, bool) const override {
    std::string text;
    for (const std::int32_t id : ids) text += token_text(id);
    return text;
  }
  std::int64_t vocab_size() const override { return 257; }
  std::optional<std::int32_t> token_id(std::string_view) const override { return std::nullopt; }
  std::string token_text(std::int32_t id) const override {
    return id == 256 ? eos_token : std::string(1, static_cast<char>(id));
  }
  bool is_special(std::int32_t id) const override { return id == 256; }
};

/// A folder that goes with the test.
class DataTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "tune-data-test-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string file(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return (folder_ / name).string();
  }

  std::filesystem::path folder_;
};

/// Rows that lie in memory. Row i has ids first_id ... and every token but the first is trained.
class MemoryRows final : public TokenDataset {
 public:
  void add(std::vector<std::int32_t> ids, std::vector<std::uint8_t> trained, std::int64_t source = 0) {
    rows_.push_back({std::move(ids), std::move(trained), {"rows.jsonl", size() + 1}});
    sources_.push_back(source);
  }
  /// `length` ids, all of them the row's number, all trained.
  void add_row(std::size_t length, std::int64_t source = 0) {
    add(std::vector<std::int32_t>(length, static_cast<std::int32_t>(size())), std::vector<std::uint8_t>(length, 1),
        source);
  }
  std::int64_t size() const override { return static_cast<std::int64_t>(rows_.size()); }
  RowView row(std::int64_t i) const override { return {rows_[i].ids, rows_[i].trained}; }
  Place place(std::int64_t i) const override { return rows_[i].place; }
  std::int64_t source(std::int64_t i) const override { return sources_[i]; }

 private:
  std::vector<Row> rows_;
  std::vector<std::int64_t> sources_;
};

/// The text of the Error that `call` throws; "" when it throws none.
template <class Call>
std::string error_of(Call call, Fault fault = Fault::data) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.fault(), fault) << error.what();
    return error.what();
  }
  return "";
}

}  // namespace tune
