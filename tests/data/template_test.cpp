#include "data/templates/template.h"

#include <gmock/gmock.h>

#include <map>

#include "recipes/schema/error.h"

namespace tune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// One id a byte (its value), but 1000 for </s>, 1001 for <|im_end|> and 1002 for <s>.
class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer() {
    bos_id = 1002;
    eos_id = 1000;
    bos_token = "<s>";
    eos_token = "</s>";
  }
  using Tokenizer::encode;
  Encoding encode(std::string_view text, TextPart) const override {
    Encoding encoding;
    for (std::size_t i = 0; i < text.size();) {
      std::int32_t id = static_cast<unsigned char>(text[i]);
      std::size_t length = 1;
      for (const auto& [token, special] : specials_) {
        if (text.substr(i).starts_with(token)) id = special, length = token.size();
      }
      encoding.ids.push_back(id);
      encoding.begin.push_back(static_cast<std::int32_t>(i));
      i += length;
    }
    return encoding;
  }
  std::string decode(std::span<const std::int32_t> ids, bool) const override {
    std::string text;
    for (const std::int32_t id : ids) text += token_text(id);
    return text;
  }
  std::int64_t vocab_size() const override { return 1003; }
  std::optional<std::int32_t> token_id(std::string_view token) const override {
    const auto found = specials_.find(std::string(token));
    return found == specials_.end() ? std::nullopt : std::optional(found->second);
  }
  std::string token_text(std::int32_t id) const override {
    for (const auto& [token, special] : specials_) {
      if (special == id) return token;
    }
    return {static_cast<char>(id)};
  }
  bool is_special(std::int32_t id) const override { return id >= 1000; }

 private:
  std::map<std::string, std::int32_t> specials_ = {{"</s>", 1000}, {"<|im_end|>", 1001}, {"<s>", 1002}};
};

const std::vector<Message> kTwoTurns = {
    {"system", "S"}, {"user", "U"}, {"assistant", "A"}, {"user", "V"}, {"assistant", "B"}};

std::string joined(const std::vector<Span>& spans) {
  std::string text;
  for (const Span& span : spans) text += span.text;
  return text;
}

std::string render(const std::string& name, const std::vector<Message>& messages, bool generation = false) {
  return joined(find_template(name).render(messages, ByteTokenizer(), TrainOn::assistant, generation));
}

// The text of the trained ids, a | between stretches.
std::string trained_text(const std::string& name, const std::vector<Message>& messages, TrainOn train_on) {
  const ByteTokenizer tokenizer;
  const Row row = encode_spans(find_template(name).render(messages, tokenizer, train_on, false), tokenizer, true);
  EXPECT_EQ(row.ids.size(), row.trained.size());
  std::string text;
  for (std::size_t i = 0; i < row.ids.size(); ++i) {
    if (row.trained[i]) text += tokenizer.token_text(row.ids[i]);
    if (!row.trained[i] && !text.empty() && text.back() != '|') text += '|';
  }
  return text;
}

TEST(Template, RendersZephyr) {
  EXPECT_EQ(render("zephyr", kTwoTurns),
            "<|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\nA</s>\n<|user|>\nV</s>\n<|assistant|>\nB</s>\n");
  EXPECT_EQ(render("zephyr", {{"user", " U"}}, true), "<|user|>\n U</s>\n<|assistant|>\n");
}

TEST(Template, RendersLlama2) {
  EXPECT_EQ(render("llama2", kTwoTurns),
            "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A </s><s>[INST] V [/INST] B </s>");
  EXPECT_EQ(render("llama2", {{"user", "\n U "}}, true), "<s>[INST] U [/INST]");
}

TEST(Template, RendersChatml) {
  EXPECT_EQ(render("chatml", {{"user", "U"}}, true), "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n");
}

TEST(Template, AddsTheSystemTurnOfTheModelsOwnChatml) {
  ByteTokenizer tokenizer;
  const ChatTemplate& chatml = find_template("chatml");
  const std::string turn = "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}";
  for (const std::string& form : {
           // SmolLM2, with a real line break; Qwen2
           "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% "
           "endif %}" +
               turn,
           "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe kind<|im_end|>\\n' }}{% "
           "endif %}" +
               turn,
           "{% if messages[0].role != \"system\" %}{{ \"<|im_start|>system\\nBe kind<|im_end|>\\n\" }}{% endif %}" +
               turn,
           // Qwen2.5
           "{%- if tools %}{{- '<|im_start|>system\\n' }}{%- if messages[0]['role'] == 'system' %}{{- "
           "messages[0]['content'] }}"
           "{%- else %}{{- 'Be kind' }}{%- endif %}{{- \"<|im_end|>\\n\" }}{%- else %}\n    {%- if messages[0]['role'] "
           "== "
           "'system' %}\n        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n    {%- "
           "else %}\n"
           "        {{- '<|im_start|>system\\nBe kind<|im_end|>\\n' }}\n    {%- endif %}\n{%- endif %}" +
               turn,
           // in plain
           "{% if messages[0]['role'] != 'system' %}\n<|im_start|>system\nBe kind<|im_end|>\n{% endif %}" + turn,
       }) {
    tokenizer.chat_template = form;
    EXPECT_EQ(joined(chatml.render({{"user", "U"}}, tokenizer, TrainOn::assistant, false)),
              "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nU<|im_end|>\n")
        << form;
    EXPECT_EQ(joined(chatml.render({{"system", "S"}}, tokenizer, TrainOn::assistant, false)),
              "<|im_start|>system\nS<|im_end|>\n");
    EXPECT_EQ(chatml.warning(tokenizer), "") << form;
  }
  tokenizer.chat_template =
      "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nSay \\'it\\'s \"so\" {now}\\'<|im_end|>\\n' "
      "}}{% endif %}";
  EXPECT_THAT(joined(chatml.render({{"user", "U"}}, tokenizer, TrainOn::assistant, false)),
              ::testing::StartsWith("<|im_start|>system\nSay 'it's \"so\" {now}'<|im_end|>\n<|im_start|>user"));
}

TEST(Template, WarnsOfASystemTurnThatItCanNotRead) {
  ByteTokenizer tokenizer;
  const ChatTemplate& chatml = find_template("chatml");
  for (const char* form :
       {"{% set system_message = 'Be kind' %}{{ '<|im_start|>system\\n' + system_message + '<|im_end|>\\n' }}",
        "{{ '<|im_start|>system\\nToday is ' + strftime_now('%d') + '<|im_end|>\\n' }}"}) {
    tokenizer.chat_template = form;
    EXPECT_THAT(chatml.warning(tokenizer), HasSubstr("write a system message into each row")) << form;
  }
  for (const char* form :
       {"", "{{ '<|im_start|>' + message['role'] }}",
        "{% if messages[0]['role'] == 'system' %}{{ '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>' "
        "}}{% endif %}",
        // Qwen3
        "{%- if tools %}{{- '<|im_start|>system\\n' }}{%- if messages[0].role == 'system' %}{{- messages[0].content "
        "}}{%- endif %}"
        "{%- else %}{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + "
        "'<|im_end|>\\n' }}{%- endif %}{%- endif %}"}) {
    tokenizer.chat_template = form;
    EXPECT_EQ(chatml.warning(tokenizer), "") << form;
    EXPECT_THAT(joined(chatml.render({{"user", "U"}}, tokenizer, TrainOn::assistant, false)),
                ::testing::StartsWith("<|im_start|>user"));
  }
}

TEST(Template, RendersAlpacaWithAndWithoutInput) {
  EXPECT_EQ(
      render("alpaca", {{"user", "Add."}, {"assistant", "3"}}),
      "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
      "### Instruction:\nAdd.\n\n### Response:\n3</s>");
  EXPECT_EQ(
      render("alpaca", {{"user", "Add.\n\n### Input:\n1 2"}}),
      "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
      "response "
      "that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n");
}

TEST(Template, RendersNone) {
  EXPECT_EQ(render("none", {{"user", "Q: 1? "}, {"assistant", "A: 2"}}), "Q: 1? A: 2</s>");
}

TEST(Template, TrainsAnswersWithTheirEndOfTurn) {
  EXPECT_EQ(trained_text("zephyr", kTwoTurns, TrainOn::assistant), "A</s>|B</s>|");
  EXPECT_EQ(trained_text("zephyr", kTwoTurns, TrainOn::last), "B</s>|");
  EXPECT_EQ(trained_text("llama2", kTwoTurns, TrainOn::assistant), " A </s>| B </s>");
  EXPECT_EQ(trained_text("chatml", kTwoTurns, TrainOn::assistant), "A<|im_end|>|B<|im_end|>|");
  EXPECT_EQ(trained_text("alpaca", kTwoTurns, TrainOn::assistant), "A</s>|B</s>");
  EXPECT_EQ(trained_text("none", kTwoTurns, TrainOn::last), "B</s>");
  EXPECT_EQ(trained_text("none", kTwoTurns, TrainOn::all), "SUA</s>VB</s>");
}

TEST(Template, TrainsAnEmptyAnswersEndOfTurn) {
  EXPECT_EQ(trained_text("zephyr", {{"user", "U"}, {"assistant", ""}}, TrainOn::assistant), "</s>|");
}

TEST(Template, RefusesRolesThatLlama2CanNotExpress) {
  try {
    render("llama2", {{"user", "U"}, {"user", "V"}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.fault(), Fault::data);
    EXPECT_THAT(error.what(), HasSubstr("message 2 has role \"user\"; in the llama2 format it must be assistant"));
  }
}

TEST(Template, HasWhatARecipeMayName) {
  for (const std::string_view name : kChatTemplates) EXPECT_EQ(find_template(name).name(), name);
}

TEST(EncodeSpans, AppendsEosWhereATrainedTextHasNone) {
  const ByteTokenizer tokenizer;
  EXPECT_THAT(encode_spans({{"p", false}, {"ab", true}}, tokenizer, false).ids, ElementsAre('p', 'a', 'b', 1000));
  EXPECT_THAT(encode_spans({{"p", false}, {"ab", true}}, tokenizer, false).trained, ElementsAre(0, 1, 1, 1));
  EXPECT_THAT(encode_spans({{"a</s>\n", true}}, tokenizer, false).ids, ElementsAre('a', 1000, '\n'));
  EXPECT_THAT(encode_spans({{"p", false}}, tokenizer, false).ids, ElementsAre('p'));
}

TEST(EncodeSpans, GivesBosOnce) {
  const ByteTokenizer tokenizer;
  EXPECT_THAT(encode_spans({{"p", false}}, tokenizer, true).ids, ElementsAre(1002, 'p'));
  EXPECT_THAT(encode_spans({{"<s>p", false}}, tokenizer, true).ids, ElementsAre(1002, 'p'));
}

}  // namespace
}  // namespace tune
