#include "data/sources/source.h"

#include <gmock/gmock.h>
#include <zlib.h>
#include <zstd.h>

#include "data/sources/stretches.h"
#include "data_fakes.h"
#include "reading.h"

namespace tune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string gzipped(const std::string& text) {
  z_stream stream{};
  deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY);
  std::string packed(deflateBound(&stream, text.size()) + 32, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  deflate(&stream, Z_FINISH);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

std::string zstd_packed(const std::string& text) {
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 3));
  return packed;
}

const DatasetOptions kText{.type = DatasetType::text};

class Sources : public DataTest {
 protected:
  std::string refusal(const std::string& name, const std::string& text, DatasetOptions options = {}) {
    options.path = file(name, text);
    std::string message = error_of([&] { read(options); });
    for (std::size_t at; (at = message.find(folder_.string() + "/")) != std::string::npos;)
      message.erase(at, folder_.string().size() + 1);
    return message;
  }
};

// ---- types

TEST_F(Sources, ReadsChatMessages) {
  const auto rows =
      read({.path = file("a.jsonl", R"({"messages": [{"role": "system", "content": "S"},)"
                                    R"({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]})")});
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(told(rows[0]), "system: S | user: Hi | assistant: Ho");
  EXPECT_EQ(rows[0].place.line, 1);
}

TEST_F(Sources, ReadsShareGptConversations) {
  const auto rows =
      read({.path = file("a.jsonl", R"({"conversations": [{"from": "system", "value": "S"},)"
                                    R"({"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]})")});
  EXPECT_EQ(told(rows.at(0)), "system: S | user: Hi | assistant: Ho");
}

TEST_F(Sources, MapsNamesAndRoles) {
  const auto rows =
      read({.path = file("a.jsonl", R"({"talk": [{"who": "customer", "says": "Hi"}, {"who": "bot", "says": "Ho"}]})"),
            .field_names = {{"messages", "talk"}, {"role", "who"}, {"content", "says"}},
            .field_roles = {{"customer", "user"}, {"bot", "assistant"}}});
  EXPECT_EQ(told(rows.at(0)), "user: Hi | assistant: Ho");
}

TEST_F(Sources, ReadsAlpacaWithAndWithoutInput) {
  const auto rows = read({.path = file("a.jsonl",
                                       "{\"instruction\": \"Add\", \"input\": \"1 2\", \"output\": \"3\"}\n"
                                       "{\"instruction\": \"Greet\", \"input\": \"\", \"output\": \"Hi\"}\n"
                                       "{\"instruction\": \"Greet\", \"output\": \"Ho\"}\n"),
                          .type = DatasetType::alpaca});
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(told(rows[0]), "user: Add\n\n### Input:\n1 2 | assistant: 3");
  EXPECT_EQ(told(rows[1]), "user: Greet | assistant: Hi");
  EXPECT_EQ(told(rows[2]), "user: Greet | assistant: Ho");
}

TEST_F(Sources, ReadsPromptAndCompletionUnderOtherNames) {
  const auto rows = read({.path = file("a.jsonl", R"({"q": "Hi", "a": "Ho", "n": 7, "x": [1, {"y": null}]})"),
                          .type = DatasetType::prompt_completion,
                          .field_names = {{"prompt", "q"}, {"completion", "a"}}});
  EXPECT_EQ(told(rows.at(0)), "user: Hi | assistant: Ho");
}

TEST_F(Sources, ReadsCodeToFillIn) {
  const auto rows = read({.path = file("a.jsonl",
                                       "{\"content\": \"f(x)\"}\n"
                                       "{\"prefix\": \"f(\", \"middle\": \"x\", \"suffix\": \")\"}\n"
                                       "{\"prefix\": \"\", \"middle\": \"f\", \"suffix\": \"\", \"content\": null}\n"),
                          .type = DatasetType::fim,
                          .field_names = {{"text", "content"}}});
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows[0].text, "f(x)");
  EXPECT_FALSE(rows[0].middle);
  EXPECT_EQ(rows[1].text, "f(x)");
  EXPECT_EQ(rows[1].middle->begin, 2U);
  EXPECT_EQ(rows[1].middle->end, 3U);
  EXPECT_EQ(rows[2].middle->begin, 0U);
  const DatasetOptions fim{.type = DatasetType::fim};
  EXPECT_THAT(refusal("b.jsonl", "{\"prefix\": \"a\", \"middle\": \"b\"}\n", fim), HasSubstr("has no \"suffix\""));
  EXPECT_THAT(refusal("c.jsonl", "{\"prefix\": \"\", \"middle\": \"\", \"suffix\": \"\"}\n", fim),
              HasSubstr("\"middle\" is empty"));
  EXPECT_THAT(refusal("d.jsonl", "{\"text\": \"a\", \"middle\": \"b\"}\n", fim),
              HasSubstr("has \"text\" and \"middle\""));
}

TEST_F(Sources, GivesALongTextToFillInWhole) {
  std::string text;
  while (text.size() < 3 * kLongestStretchBytes) text += "def f(x): return x\n";
  for (const char* name : {"a.txt", "a.jsonl"}) {
    const bool plain = std::string_view(name).ends_with("txt");
    std::string escaped = text;
    for (std::size_t at = 0; !plain && (at = escaped.find('\n', at)) != std::string::npos; at += 2)
      escaped.replace(at, 1, "\\n");
    const auto rows = read({.path = file(name, plain ? text : "{\"text\": \"" + escaped + "\"}\n{\"text\": \"b\"}\n"),
                            .type = DatasetType::fim});
    ASSERT_EQ(rows.size(), plain ? 1U : 2U);
    EXPECT_EQ(rows[0].text, text);
    EXPECT_EQ(rows[0].part, TextPart::whole);
  }
}

TEST_F(Sources, TakesNumbersOfAnySizeInFieldsThatNobodyReads) {
  EXPECT_THAT(texts(text_options(
                  file("a.jsonl",
                       "{\"text\":\"a 1e999\",\"n\":1e400}\n"
                       "{\"n\":[-123456789012345678901234567890,{\"m\":-0.5E+99999}],\"text\":\"\\\"b\\\"\"}\n"))),
              ElementsAre("a 1e999", "\"b\""));
  EXPECT_EQ(refusal("b.jsonl", "{\"text\": 1e400}\n", kText),
            "b.jsonl:1: \"text\" is neither text nor a list; it must be text; put it in quotes");
  EXPECT_THAT(refusal("c.jsonl", "{\"n\": 1e400, \"m\": 01}\n", kText), HasSubstr("c.jsonl:1:20: broken JSON: "));
  EXPECT_THAT(refusal("d.jsonl", "{\"n\": 1e400, \"text\": tru}\n", kText), HasSubstr("d.jsonl:1:"));
}

TEST_F(Sources, TakesNullForAFieldThatIsNotThere) {
  const auto rows =
      read({.path = file("a.jsonl",
                         R"({"messages": null, "conversations": [{"from": "human", "value": "Hi"},)"
                         R"({"from": "gpt", "value": "Ho"}]})"
                         "\n"
                         R"({"conversations": null, "messages": [{"role": "user", "content": "Hi", "from": null},)"
                         R"({"role": "assistant", "content": "Ho", "from": null}]})")});
  ASSERT_EQ(rows.size(), 2U);
  for (const Record& row : rows) EXPECT_EQ(told(row), "user: Hi | assistant: Ho");
}

// ---- lines

TEST_F(Sources, SkipsByteOrderMarkBlankLinesAndCarriageReturns) {
  const std::string path = file("a.jsonl", "\xEF\xBB\xBF{\"text\": \"a\"}\r\n\r\n  \n{\"text\": \"b\"}");
  const auto rows = read(text_options(path));
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].text, "a");
  EXPECT_EQ(rows[1].text, "b");
  EXPECT_EQ(to_string(rows[1].place), path + ":4");
}

TEST_F(Sources, ReadsALineOfAHundredMegabytes) {
  const std::string text(100 << 20, 'x');
  const auto rows = read({.path = file("a.jsonl", "{\"prompt\": \"p\", \"completion\": \"" + text +
                                                      "\"}\n{\"prompt\": \"p\", \"completion\": \"b\"}\n"),
                          .type = DatasetType::prompt_completion});
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].messages[1].content.size(), text.size());
  EXPECT_EQ(rows[1].place.line, 2);
}

TEST_F(Sources, ReadsAnEmptyFileAsNoRows) {
  for (const char* name : {"a.jsonl", "a.json", "a.csv", "a.txt"})
    EXPECT_THAT(texts(text_options(file(name, ""))), IsEmpty());
}

TEST_F(Sources, GivesLongTextsInPartsCutWhereNoTokenCrosses) {
  std::string text = "\xEF\xBB\xBF";
  for (int i = 0; text.size() < (3U << 20); ++i)
    text += "word" + std::to_string(i) + (i % 13 == 0 ? ".\n" : i % 7 == 0 ? ",  " : " ");
  text += std::string(100000, ' ') + "\n";
  std::string line = text.substr(3);
  for (std::size_t at = 0; (at = line.find('\n', at)) != std::string::npos; at += 2) line.replace(at, 1, "\\n");
  for (const std::string& path :
       {file("a.txt", text), file("a.jsonl", "{\"text\": \"" + line + "\"}\n{\"text\": \"b\"}\n")}) {
    std::vector<Record> parts = read(text_options(path));
    if (path.ends_with("jsonl")) {
      EXPECT_EQ(parts.back().text, "b");
      EXPECT_EQ(parts.back().part, TextPart::whole);
      parts.pop_back();
    }
    ASSERT_GT(parts.size(), 40U);
    std::string joined;
    for (const Record& part : parts) {
      EXPECT_EQ(part.part, text_part(joined.empty(), &part == &parts.back()));
      EXPECT_EQ(part.place.line, 1);
      EXPECT_LE(part.text.size(), &part == &parts.back() ? kLongestStretchBytes : kStretchBytes);
      if (!joined.empty()) {
        EXPECT_TRUE((part.text[0] == ' ' && joined.back() != ' ' && joined.back() != '\n') ||
                    (joined.ends_with(".\n") && part.text[0] == 'w'));
      }
      joined += part.text;
    }
    EXPECT_EQ(joined, text.substr(3));
    EXPECT_THAT(parts.back().text, HasSubstr("word"));  // so that it can be seen whether the text has its end
  }
  DatasetOptions held_out = text_options(file("a.txt", text));
  held_out.holdout_every = 2;
  EXPECT_THAT(texts(held_out), IsEmpty());  // one row, whatever its parts
  EXPECT_THAT(refusal("b.txt", text.substr(0, 2 << 20) + "\n\xFF", kText), HasSubstr(": invalid UTF-8 (byte 0xFF)"));
  EXPECT_EQ(
      refusal("c.txt", text),
      "c.txt:1: the row has no \"messages\"; it has \"text\"; map it: data.datasets[].field_names: {messages: NAME}");
}

TEST_F(Sources, CutsATextWithoutPlacesBetweenCharacters) {
  std::string text;
  while (text.size() < (5U << 19)) text += "語";
  std::string joined;
  for (const Record& part : read(text_options(file("a.txt", text)))) {
    EXPECT_LE(part.text.size(), kLongestStretchBytes);
    EXPECT_EQ(part.text.size() % 3, 0U);
    joined += part.text;
  }
  EXPECT_EQ(joined, text);
}

TEST_F(Sources, ReadsPlainTextAsOneDocument) {
  EXPECT_THAT(texts(text_options(file("a.txt", "one\n\ntwo\n"))), ElementsAre("one\n\ntwo\n"));
}

// ---- packed files

TEST_F(Sources, UnpacksGzipMembersAndZstdFramesInARow) {
  const std::string one = "{\"text\": \"a\"}\n", two = "{\"text\": \"b\"}\n";
  EXPECT_THAT(texts(text_options(file("a.jsonl.gz", gzipped(one) + gzipped(two)))), ElementsAre("a", "b"));
  EXPECT_THAT(texts(text_options(file("a.jsonl.zst", zstd_packed(one) + zstd_packed(two)))), ElementsAre("a", "b"));
  EXPECT_THAT(texts(text_options(file("a.csv.gz", gzipped("text\na\n")))), ElementsAre("a"));
  EXPECT_THAT(texts(text_options(file("a.txt.zst", zstd_packed("abc")))), ElementsAre("abc"));
}

TEST_F(Sources, TakesZerosBehindGzipMembersForPadding) {
  const std::string packed = gzipped("{\"text\": \"a\"}\n");
  EXPECT_THAT(texts(text_options(file("a.jsonl.gz", packed + std::string(700, '\0')))), ElementsAre("a"));
  EXPECT_THAT(refusal("b.jsonl.gz", packed + std::string(9, '\0') + "x", kText), HasSubstr("can't be unpacked"));
}

TEST_F(Sources, UnpacksMoreThanABuffer) {
  std::string text;
  for (int i = 0; i < 50000; ++i) text += "{\"text\": \"row " + std::to_string(i) + "\"}\n";
  for (const std::string& path : {file("a.jsonl.gz", gzipped(text)), file("a.jsonl.zst", zstd_packed(text))}) {
    const auto rows = read(text_options(path));
    ASSERT_EQ(rows.size(), 50000U);
    EXPECT_EQ(rows.back().text, "row 49999");
    EXPECT_EQ(rows.back().place.line, 50000);
  }
}

TEST_F(Sources, NamesAPackedFileThatIsCutOffOrDamaged) {
  const std::string text = "{\"text\": \"" + std::string(5000, 'a') + "\"}\n";
  const std::string gz = gzipped(text), zst = zstd_packed(text);
  EXPECT_EQ(refusal("a.jsonl.gz", gz.substr(0, gz.size() - 9)),
            "a.jsonl.gz: can't be unpacked: the gzip data ends too early; fetch the file again");
  EXPECT_EQ(refusal("a.jsonl.zst", zst.substr(0, zst.size() - 3)),
            "a.jsonl.zst: can't be unpacked: the zstd data ends too early; fetch the file again");
  EXPECT_EQ(refusal("b.jsonl.gz", "plain text"),
            "b.jsonl.gz: can't be unpacked: incorrect header check; fetch the file again");
  EXPECT_EQ(refusal("b.jsonl.zst", "plain text"),
            "b.jsonl.zst: can't be unpacked: Unknown frame descriptor; fetch the file again");
  EXPECT_THAT(refusal("c.jsonl.gz", ""), HasSubstr("the gzip data ends too early"));
}

// ---- refused rows

TEST_F(Sources, NamesLineAndColumnOfBrokenJson) {
  std::string text;
  for (int i = 0; i < 6; ++i) text += "{\"text\": \"a\"}\n";
  EXPECT_EQ(refusal("a.jsonl", text + "{\"text\": \"a\", }\n", kText),
            "a.jsonl:7:15: broken JSON: unexpected '}', expected string literal; mend the row or leave it out");
  EXPECT_THAT(refusal("b.jsonl", "{\"text\": \"a", kText), HasSubstr("b.jsonl:1:12: broken JSON: "));
}

TEST_F(Sources, NamesLineAndColumnOfInvalidUtf8) {
  EXPECT_EQ(refusal("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"\xC3\xBC\xFF\"}\n", kText),
            "a.jsonl:2:12: invalid UTF-8 (byte 0xFF); convert the file to UTF-8");
  EXPECT_EQ(refusal("a.csv", "text\nok\n\xFC\n", kText),
            "a.csv:3:1: invalid UTF-8 (byte 0xFC); convert the file to UTF-8");
  EXPECT_EQ(refusal("a.txt", "ok\nab\xFC\n", kText), "a.txt:2:3: invalid UTF-8 (byte 0xFC); convert the file to UTF-8");
}

TEST_F(Sources, RefusesHalfASurrogatePair) {
  EXPECT_THAT(refusal("a.jsonl", R"({"text": "\ud800"})", kText), HasSubstr("a.jsonl:1"));
  EXPECT_THAT(refusal("b.jsonl", R"({"text": "\udc00"})", kText), HasSubstr("b.jsonl:1"));
}

TEST_F(Sources, RefusesDeepNestingAndRowsThatAreNoObjects) {
  EXPECT_EQ(refusal("a.jsonl", std::string(100, '[') + std::string(100, ']')),
            "a.jsonl:1: the row is nested deeper than 64 levels; flatten it");
  EXPECT_EQ(refusal("b.jsonl", "[1]\n"),
            "b.jsonl:1: the row is no JSON object; write {\"messages\": …} or the like, one row a line");
}

TEST_F(Sources, NamesTheRoleThatIsNotKnown) {
  EXPECT_EQ(
      refusal("a.jsonl", R"({"messages": [{"role": "user", "content": "Hi"}, {"role": "bot", "content": "Ho"}]})"),
      "a.jsonl:1: message 2 has role \"bot\"; roles are system, user, assistant; "
      "map it: data.datasets[].field_roles: {bot: assistant}");
}

TEST_F(Sources, NamesTheFieldThatIsMissingOrOfAnotherType) {
  EXPECT_EQ(
      refusal("a.jsonl", R"({"q": "Hi", "a": "Ho"})", {.type = DatasetType::prompt_completion}),
      "a.jsonl:1: the row has no \"prompt\"; it has \"q\", \"a\"; map it: data.datasets[].field_names: {prompt: NAME}");
  EXPECT_EQ(refusal("a.jsonl", R"({"text": 7})", kText),
            "a.jsonl:1: \"text\" is neither text nor a list; it must be text; put it in quotes");
  EXPECT_THAT(refusal("a.jsonl", R"({"messages": "Hi"})"),
              HasSubstr("\"messages\" is text; it must be a list of messages"));
  EXPECT_THAT(refusal("a.jsonl", R"({"messages": [{"role": "user"}]})"), HasSubstr("message 1 has no \"content\""));
  EXPECT_THAT(refusal("a.jsonl", R"({"messages": ["Hi"]})"), HasSubstr("message 1 has no \"role\""));
}

TEST_F(Sources, ReadsLabelsThatAreTrueOrFalse) {
  const auto labels = [&](const std::string& name, const std::string& text) {
    std::string all;
    for (const Record& record : read({.path = file(name, text), .type = DatasetType::unpaired_preference}))
      all += told(record) + (record.label.value() ? " +; " : " -; ");
    return all;
  };
  EXPECT_EQ(labels("a.jsonl", R"({"prompt": "Hi", "completion": "Ho", "label": true}
{"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Hu"}], "label": "false"}
)"),
            "user: Hi | assistant: Ho +; user: Hi | assistant: Hu -; ");
  EXPECT_EQ(labels("a.csv", "prompt,completion,label\nHi,Ho,1\nHi,Ho,0\nHi,Ho,True\n"),
            "user: Hi | assistant: Ho +; user: Hi | assistant: Ho -; user: Hi | assistant: Ho +; ");
  const auto refused = [&](const std::string& label) {
    return refusal("b.jsonl", R"({"prompt": "Hi", "completion": "Ho")" + label + "}",
                   {.type = DatasetType::unpaired_preference});
  };
  const std::string remedy =
      "it must be true or false; write true where the answer is a good one, false where it is a "
      "bad one";
  EXPECT_EQ(refused(R"(, "label": "good")"), "b.jsonl:1: \"label\" is \"good\"; " + remedy);
  EXPECT_EQ(refused(R"(, "label": 1)"), "b.jsonl:1: \"label\" is neither text nor a list; " + remedy);
  EXPECT_EQ(refused(R"(, "label": null)"), "b.jsonl:1: \"label\" is null; " + remedy);
  EXPECT_THAT(refused(""), HasSubstr("the row has no \"label\"; it has \"prompt\", \"completion\""));
}

TEST_F(Sources, RefusesConversationsWithoutAnAnswer) {
  EXPECT_EQ(
      refusal("a.jsonl", R"({"messages": [{"role": "user", "content": "Hi"}]})"),
      "a.jsonl:1: the conversation has no assistant turn; there is nothing to learn; leave the row out, or name the "
      "assistant's role: data.datasets[].field_roles: {bot: assistant}");
  EXPECT_EQ(
      refusal("a.jsonl", R"({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}]})"),
      "a.jsonl:1: message 2 is an empty answer of the assistant; there is nothing to learn; fill it in or leave the "
      "row out");
  EXPECT_THAT(refusal("a.jsonl", R"({"prompt": "Hi", "completion": ""})", {.type = DatasetType::prompt_completion}),
              HasSubstr("a.jsonl:1: \"completion\" is empty"));
}

TEST_F(Sources, ListsTenRefusedRowsAndCountsTheOthers) {
  EXPECT_EQ(refusal("a.jsonl", "{\"text\": \"\"}\n{\"text\": \"a\"}\n{\"text\": \"\"}\n", kText),
            "a.jsonl:1: \"text\" is empty; there is nothing to learn; fill it in or leave the row out\n"
            "a.jsonl:3: \"text\" is empty; there is nothing to learn; fill it in or leave the row out");
  std::string many;
  for (int i = 0; i < 100; ++i) many += "{}\n";
  const std::string message = refusal("b.jsonl", many, kText);
  EXPECT_THAT(message, HasSubstr("\nb.jsonl:10: "));
  EXPECT_THAT(message, ::testing::EndsWith("\n… and 90 more rows"));
  EXPECT_THAT(message, ::testing::Not(HasSubstr("b.jsonl:11")));
}

TEST_F(Sources, NamesFilesThatAreMissingOrOfAnUnknownKind) {
  EXPECT_EQ(
      error_of([] { read({.path = "/no/such.jsonl"}); }),
      "/no/such.jsonl: there is no such file; check data.datasets[].path; it is relative to where tune is started");
  EXPECT_EQ(refusal("a.docx", "x"),
            "a.docx: the name ends in \".docx\"; it must end in .jsonl, .json, .csv, .parquet or .txt; convert it; .gz "
            "or .zst may follow");
}

// ---- one array

TEST_F(Sources, ReadsAJsonArrayWithTheLineOfEachRow) {
  const auto rows =
      read(text_options(file("a.json", "[\n  {\"text\": \"a, ]}\"},\n\n  {\n    \"text\": \"b\"\n  }\n]\n")));
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].text, "a, ]}");
  EXPECT_EQ(rows[0].place.line, 2);
  EXPECT_EQ(rows[1].text, "b");
  EXPECT_EQ(rows[1].place.line, 4);
}

TEST_F(Sources, ReadsAJsonArrayOfManyBuffers) {
  std::string text = std::string(300000, ' ') + "[";
  for (int i = 0; i < 4000; ++i)
    text += (i == 0 ? "\n" : ",\n") + ("{\"text\": \"" + std::string(static_cast<std::size_t>(i), '[') + "\\\"\"}");
  const std::string path = file("a.json.gz", gzipped("\xEF\xBB\xBF" + text + "\n]" + std::string(300000, '\n')));
  const auto rows = read(text_options(path));
  ASSERT_EQ(rows.size(), 4000U);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    ASSERT_EQ(rows[i].text.size(), i + 1);
    ASSERT_EQ(rows[i].place.line, static_cast<std::int64_t>(i) + 2);
  }
  EXPECT_THAT(refusal("b.json", text, kText), ::testing::StartsWith("b.json:4001:4014: the array is not closed"));
}

TEST_F(Sources, NamesThePlaceInABrokenJsonArray) {
  EXPECT_THAT(refusal("a.json", "[{\"text\": \"a\"},\n {\"text\": }]", kText), HasSubstr("a.json:2:11: broken JSON: "));
  EXPECT_EQ(refusal("a.json", "[{\"text\": \"a\"}", kText),
            "a.json:1:15: the array is not closed; end it with ], or fetch the file again");
  EXPECT_EQ(refusal("a.json", "[{\"text\": \"a\"}] {}", kText),
            "a.json:1:17: there is more behind the array; put all rows into one array, or write .jsonl");
}

// ---- CSV

TEST_F(Sources, ReadsQuotedCsv) {
  const auto rows = read({.path = file("a.csv",
                                       "prompt,completion\r\n"
                                       "\"a, b\",\"say \"\"hi\"\"\"\r\n"
                                       "\"two\nlines\",x\r\n"
                                       "\r\n"
                                       "last,\"end\""),
                          .type = DatasetType::prompt_completion});
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(told(rows[0]), "user: a, b | assistant: say \"hi\"");
  EXPECT_EQ(told(rows[1]), "user: two\nlines | assistant: x");
  EXPECT_EQ(rows[1].place.line, 3);
  EXPECT_EQ(told(rows[2]), "user: last | assistant: end");
  EXPECT_EQ(rows[2].place.line, 6);
}

TEST_F(Sources, NamesTheLineOfBrokenCsv) {
  const DatasetOptions options{.type = DatasetType::prompt_completion};
  EXPECT_EQ(refusal("a.csv", "prompt,completion\na,b\na,b,c\n", options),
            "a.csv:3: the row has 3 fields, the header 2; put fields with commas or line ends in double quotes");
  EXPECT_EQ(refusal("a.csv", "prompt,completion\na,\"b\nc\n", options),
            "a.csv:2: a double quote is opened in this row and never closed; close it");
  EXPECT_EQ(refusal("a.csv", "prompt,completion\na,\"b\"c\n", options),
            "a.csv:2: there is text behind a closing quote; write a quote inside a field as \"\"");
}

// ---- hold-out

TEST_F(Sources, HoldsOutEveryKthRow) {
  std::string text;
  for (int i = 0; i < 7; ++i) text += "{\"text\": \"" + std::to_string(i) + "\"}\n";
  DatasetOptions options = text_options(file("a.jsonl", text));
  options.holdout_every = 3;
  EXPECT_THAT(texts(options, Part::training), ElementsAre("1", "2", "4", "5"));
  EXPECT_THAT(texts(options, Part::evaluation), ElementsAre("0", "3", "6"));
  options.holdout_every = 0;
  EXPECT_EQ(texts(options, Part::evaluation).size(), 7U);
}

// ---- other people's files

TEST_F(Sources, ReadsEveryRowOfTheSupportConversations) {
  const std::string path = TUNE_SOURCE_DIR "/../shared/data/bitext-support/sft_train.jsonl";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is absent";
  EXPECT_EQ(read({.path = path}).size(), 3349U);
}

}  // namespace
}  // namespace tune
