#include "data/templates/own_template.h"

#include <fstream>
#include <iterator>

#include "data/templates/jinja_text.h"
#include "data_fakes.h"

namespace tune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string published(const std::string& name) {
  std::ifstream file(std::string(TUNE_SOURCE_DIR) + "/tests/fixtures/templates/" + name + ".jinja");
  EXPECT_TRUE(file) << name;
  return {std::istreambuf_iterator<char>(file), {}};
}

ByteTokenizer tokenizer_with(const std::string& jinja) {
  ByteTokenizer tokenizer;
  tokenizer.chat_template = jinja;
  return tokenizer;
}

const std::vector<DatasetOptions> kChats = {{.path = "a.jsonl"}};

TEST(PlainJinja, IsOneForEverySpelling) {
  const std::string plain = "{%if x.role==\"user\"%}a{{x.content+\"b\\n\"}}{%endif%}";
  for (const char* spelled : {
           "{% if x['role'] == 'user' %}a{{ x['content'] + 'b\\n' }}{% endif %}",
           "{%if x[\"role\"]==\"user\"%}a{{x['content'] + 'b' + '\\n'}}{%endif%}\n",
           "{# note #}{% if x.role == 'user' %}\na{{- x.content + 'b\n' }}{%- endif -%}  ",
           "  {% if x.role == 'user' -%}\n  a\n  {{- x.content + 'b\\n' -}}\n  {% endif %}\n",
       })
    EXPECT_EQ(plain_jinja(spelled), plain) << spelled;
}

TEST(PlainJinja, KeepsWhatReachesTheOutput) {
  EXPECT_EQ(plain_jinja("{{ x }}\n{{ y }}\n"), "{{x}}\n{{y}}");
  EXPECT_EQ(plain_jinja("{% if x %}\n\n a{% endif %}"), "{%if x%}\n a{%endif%}");
  EXPECT_EQ(plain_jinja("{% if x %} {% endif %}"), "{%if x%} {%endif%}");
  EXPECT_EQ(plain_jinja("{{ 'a ' + ' b' }}"), "{{\"a  b\"}}");
  EXPECT_EQ(plain_jinja("{{ 'a' + 'b' | trim }}"), "{{\"a\"+\"b\"|trim}}");
  EXPECT_EQ(plain_jinja("{{ 'it\\'s \"so\" }}' }}"), "{{\"it's \\\"so\\\" }}\"}}");
  EXPECT_EQ(plain_jinja("{{ x[0]['a'] }}{{ ['a'] }}{{ x['a b'] }}"), "{{x[0].a}}{{[\"a\"]}}{{x[\"a b\"]}}");
  EXPECT_EQ(plain_jinja("{{ 'a\\\nb\\q' }}"), "{{\"ab\\\\q\"}}");  // Python drops a line's end behind a backslash
  EXPECT_NE(plain_jinja("{{ '\\x41' }}"), plain_jinja("{{ '\\\\x41' }}"));
  EXPECT_NE(plain_jinja("{{ 'a x}}"), plain_jinja("{{ 'a '}}"));
  EXPECT_NE(plain_jinja("{% if x %\n}{% endif %}"), plain_jinja("{% if x %}{% endif %}"));
}

TEST(SpelledOutJinja, LeavesNothingToTrim) {
  EXPECT_EQ(spelled_out_jinja("{% if x %}\n{{ x }}\n  {%- endif %}{# no #}\n"), "{% if x %}{{ x }}{%- endif %}");
  EXPECT_EQ(spelled_out_jinja("{% if x %}\n\n \"a\"{% endif %}"), "{% if x %}{{ \"\\n \\\"a\\\"\" }}{% endif %}");
  EXPECT_EQ(spelled_out_jinja("{{ bos }}{% if x"), "{{ bos }}{% if x") << "Jinja refuses it";
}

TEST(RecogniseTemplate, KnowsPublishedTexts) {
  for (const auto& [file, name] : std::vector<std::pair<std::string, std::string>>{{"zephyr", "zephyr"},
                                                                                   {"llama2", "llama2"},
                                                                                   {"codellama", "llama2"},
                                                                                   {"mistral", "mistral"},
                                                                                   {"mixtral-2023", "mistral"},
                                                                                   {"mistral-7b-2023", "mistral"},
                                                                                   {"solar", "solar"},
                                                                                   {"codellama-70b", "codellama-70b"},
                                                                                   {"chatml", "chatml"},
                                                                                   {"smollm2", "chatml"}})
    EXPECT_EQ(recognise_template(published(file)), name) << file;
  for (const std::string_view name : kChatTemplates)
    if (name != kModelTemplate && name != "codellama") {
      EXPECT_EQ(recognise_template(find_template(name).jinja()), name);
    }
}

TEST(RecogniseTemplate, DoesNotGoByMarks) {
  EXPECT_EQ(recognise_template(""), "");
  EXPECT_EQ(recognise_template("{{ '<|im_start|>' }}"), "");
  EXPECT_EQ(recognise_template(published("chatml") + "{{ tools }}"), "");
  EXPECT_EQ(resembling_template(published("chatml") + "{{ tools }}"), "chatml");
  EXPECT_EQ(resembling_template("{{ '[INST]' + x + '[/INST]' }}"), "");
}

TEST(OwnTemplate, IsWhatModelMeans) {
  EXPECT_EQ(find_template("model", tokenizer_with(published("solar"))).name(), "solar");
  EXPECT_EQ(find_template("zephyr", tokenizer_with(published("solar"))).name(), "zephyr");
  EXPECT_THAT(error_of([] { find_template("model", tokenizer_with("")); }, Fault::recipe),
              HasSubstr("the model's files have no chat template"));
  EXPECT_THAT(error_of([] { find_template("model", tokenizer_with("{{ '<|im_start|>' }}")); }, Fault::recipe),
              HasSubstr("isn't one that is known here (it resembles chatml); name a format at data.chat_template: "
                        "zephyr, llama2, mistral"));
}

TEST(OwnTemplate, IsKeptWhereItRendersTheSame) {
  EXPECT_TRUE(own_template_serves(find_template("zephyr"), tokenizer_with(published("zephyr"))));
  EXPECT_TRUE(own_template_serves(find_template("codellama"), tokenizer_with(published("llama2"))));
  EXPECT_TRUE(own_template_serves(find_template("chatml"), tokenizer_with(published("smollm2"))));
  EXPECT_TRUE(own_template_serves(find_template("chatml"), tokenizer_with(published("chatml") + "{{ tools }}")));
  EXPECT_FALSE(own_template_serves(find_template("zephyr"), tokenizer_with("")));
  EXPECT_FALSE(own_template_serves(find_template("zephyr"), tokenizer_with(published("chatml"))));
  EXPECT_FALSE(own_template_serves(find_template("solar"), tokenizer_with(published("solar"))));
  EXPECT_FALSE(own_template_serves(find_template("mistral"), tokenizer_with(published("mixtral-2023"))));
  // a tokenizer that puts its own space behind BOS
  EXPECT_FALSE(own_template_serves(find_template("mistral"), tokenizer_with(published("mistral"))));
}

TEST(TemplateWarnings, NameTheModelsOwn) {
  const auto warnings = [](const std::string& chosen, const std::string& own, Stage stage = Stage::sft,
                           const std::vector<DatasetOptions>& datasets = kChats) {
    return template_warnings(find_template(chosen), tokenizer_with(own), stage, datasets);
  };
  EXPECT_THAT(warnings("zephyr", published("solar")),
              ElementsAre(HasSubstr("data.chat_template is zephyr, but the model's own chat template is solar, ")));
  EXPECT_THAT(warnings("zephyr", published("chatml") + "{{ tools }}"), ElementsAre(HasSubstr("resembles chatml, ")));
  EXPECT_THAT(warnings("zephyr", published("zephyr")), IsEmpty());
  EXPECT_THAT(warnings("codellama", published("llama2")), IsEmpty());
  EXPECT_THAT(warnings("zephyr", ""), IsEmpty());
  EXPECT_THAT(warnings("none", published("zephyr")), IsEmpty());
  EXPECT_THAT(warnings("zephyr", published("solar"), Stage::pretrain), IsEmpty());
  EXPECT_THAT(warnings("zephyr", published("solar"), Stage::sft, {{.path = "a.txt", .type = DatasetType::text}}),
              IsEmpty());
}

}  // namespace
}  // namespace tune
