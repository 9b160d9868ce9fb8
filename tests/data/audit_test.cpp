#include "data/audit.h"

#include <gmock/gmock.h>

#include "data/dataset.h"
#include "data_fakes.h"

namespace tune {
namespace {

class Audit : public DataTest {};

TEST_F(Audit, CountsRowsTokensAndDuplicatesPerSource) {
  DataOptions data{.chat_template = "none", .max_length = 8, .overflow = Overflow::drop};
  const std::string row = "{\"prompt\": \"Hi\", \"completion\": \"Ho\"}\n";
  data.datasets = {{.path = file("a.jsonl", row + row + "{\"prompt\": \"Hi\", \"completion\": \"a long answer\"}\n"),
                    .type = DatasetType::prompt_completion},
                   {.path = file("b.txt", "ab"), .type = DatasetType::text}};
  AuditCounts counts;
  tokenize(data, data.datasets, false, ByteTokenizer(), find_template("none"), Stage::sft, 42, {}, &counts);

  ASSERT_EQ(counts.sources.size(), 2U);
  const SourceCounts& a = counts.sources[0];
  EXPECT_EQ(a.rows, 3);
  EXPECT_EQ(a.kept, 2);
  EXPECT_EQ(a.dropped_too_long, 1);
  EXPECT_EQ(a.duplicates, 1);
  EXPECT_EQ(a.tokens, 10);         // twice H i H o </s>
  EXPECT_EQ(a.trained_tokens, 6);  // twice H o </s>
  EXPECT_DOUBLE_EQ(a.trained_share(), 0.6);
  const SourceCounts& b = counts.sources[1];
  EXPECT_EQ(b.tokens, 3);          // a b </s>
  EXPECT_EQ(b.trained_tokens, 2);  // nothing predicts the first
  EXPECT_EQ(counts.total().tokens, 13);
  EXPECT_EQ(counts.total().longest, 5);
  EXPECT_EQ(counts.histogram[1], 1);  // 2 ... 3 tokens
  EXPECT_EQ(counts.histogram[2], 2);  // 4 ... 7
}

TEST_F(Audit, WarnsOfDocumentsBeyondTheModelsPositions) {
  AuditCounts counts;
  counts.sources = {{.file = "a"}, {.file = "b"}};
  count_document(counts, 0, 5, 3);
  count_document(counts, 1, 9, 3);
  count_document(counts, 1, 2, 1);
  EXPECT_THAT(long_row_warnings(counts, 9), ::testing::IsEmpty());
  EXPECT_THAT(
      long_row_warnings(counts, 8),
      ::testing::ElementsAre(::testing::StartsWith("b: its longest row has 9 tokens, the model was made for 8 ")));
}

TEST_F(Audit, SurvivesItsJson) {
  AuditCounts counts;
  counts.sources = {{.file = "a"}, {.file = "b"}};
  count_document(counts, 0, 5, 3);
  count_document(counts, 1, 4096, 4095);
  counts.sources[1].duplicates = 7;
  const std::string json = to_json(counts);
  EXPECT_EQ(to_json(audit_from_json(json)), json);
  EXPECT_THAT(json,
              ::testing::HasSubstr(
                  R"("length_histogram":[{"from":4,"to":7,"documents":1},{"from":4096,"to":8191,"documents":1}])"));
}

}  // namespace
}  // namespace tune
