#include <gmock/gmock.h>

#include <cstdlib>

#include "data/sources/source.h"
#include "data_fakes.h"
#include "reading.h"

// Files that somebody else wrote: pyarrow.

namespace tune {
namespace {

using ::testing::HasSubstr;

class Parquet : public DataTest {};

TEST_F(Parquet, ReadsParquetOfPyarrow) {
  const std::string python = TUNE_SOURCE_DIR "/.venv/bin/python", path = (folder_ / "a.parquet").string();
  const std::string script =
      file("make.py",
           "import sys, pyarrow as pa, pyarrow.parquet as pq\n"
           "talk = [[{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': f'Ho {i}'}]"
           " for i in range(3000)]\n"
           "pq.write_table(pa.table({'id': list(range(3000)), 'messages': talk,"
           " 'text': pa.array([f't{i}' for i in range(3000)]).dictionary_encode()}),"
           " sys.argv[1], compression='zstd', row_group_size=700)\n");
  if (std::system((python + " " + script + " " + path + " 2>/dev/null").c_str()) != 0)
    GTEST_SKIP() << "no pyarrow in .venv";
  const auto rows = read({.path = path});
  ASSERT_EQ(rows.size(), 3000U);
  EXPECT_EQ(told(rows[2999]), "user: Hi | assistant: Ho 2999");
  EXPECT_EQ(rows[2999].place.line, 3000);
  EXPECT_EQ(texts(text_options(path)).at(1234), "t1234");
}

TEST_F(Parquet, ReadsEveryKindOfParquetTextAndList) {
  const std::string python = TUNE_SOURCE_DIR "/.venv/bin/python", path = (folder_ / "a.parquet").string();
  const std::string script =
      file("make.py",
           "import sys, pyarrow as pa, pyarrow.parquet as pq\n"
           "def text(kind): return pa.array(['Hi', 'Ho', None], kind)\n"
           "turn = pa.struct([('role', pa.string()), ('content', pa.large_string())])\n"
           "talk = [[{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Ho'}]] * 2 + [None]\n"
           "columns = {k.replace('_', ''): text(getattr(pa, k)()) for k in ['string_view', 'large_string', 'binary', "
           "'large_binary', 'binary_view']}\n"
           "columns |= {'list': pa.array(talk, pa.list_(turn)), 'large': pa.array(talk, pa.large_list(turn)), 'fixed': "
           "pa.array(talk, pa.list_(turn, 2))}\n"
           "columns |= {'bad': pa.array([b'\\xff'] * 3), 'n': [1, 2, 3]}\n"
           "columns |= {'prompt': ['Hi'] * 3, 'completion': ['Ho'] * 3, 'truth': [True, False, None]}\n"
           "pq.write_table(pa.table(columns), sys.argv[1])\n");
  if (std::system((python + " " + script + " " + path + " 2>/dev/null").c_str()) != 0)
    GTEST_SKIP() << "no pyarrow in .venv that writes them";
  const auto rows_of = [&](DatasetType type, const char* ours, const char* theirs) {
    RowLog log;
    const auto source = open_source({.path = path, .type = type, .field_names = {{ours, theirs}}}, Part::training, log);
    std::string all;
    for (Record record; source->next(record); record = {})
      all += record.text + told(record) + (record.label == true ? " +; " : "; ");
    EXPECT_EQ(log.count(), 1);  // null
    return all;
  };
  for (const char* kind : {"stringview", "largestring", "binary", "largebinary", "binaryview"})
    EXPECT_EQ(rows_of(DatasetType::text, "text", kind), "Hi; Ho; ") << kind;
  for (const char* kind : {"list", "large", "fixed"})
    EXPECT_EQ(rows_of(DatasetType::chat, "messages", kind), "user: Hi | assistant: Ho; user: Hi | assistant: Ho; ")
        << kind;
  EXPECT_EQ(rows_of(DatasetType::unpaired_preference, "label", "truth"),
            "user: Hi | assistant: Ho +; user: Hi | assistant: Ho; ");
  EXPECT_THAT(error_of([&] {
                read({.path = path, .type = DatasetType::text, .field_names = {{"text", "bad"}}});
              }),
              HasSubstr("a.parquet:1: \"bad\" holds invalid UTF-8 (byte 0)"));
  EXPECT_THAT(error_of([&] { read({.path = path, .type = DatasetType::text}); }),
              HasSubstr("a.parquet:1: the row has no \"text\"; it has \"stringview\", \"largestring\""));
}

TEST_F(Parquet, NamesAFileThatIsNoParquet) {
  EXPECT_THAT(error_of([&] { read({.path = file("a.parquet", "no parquet at all")}); }),
              HasSubstr("a.parquet: can't be read as Parquet: "));
}

}  // namespace
}  // namespace tune
