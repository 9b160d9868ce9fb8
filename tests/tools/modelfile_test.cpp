#include "tools/export/modelfile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/templates/own_template.h"
#include "data/templates/template.h"

namespace tune {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

/// Knows the two tokens that templates write, and encodes nothing.
class TwoTokens : public Tokenizer {
 public:
  explicit TwoTokens(bool adds_bos) {
    add_bos = adds_bos;
    bos_token = "<s>";
    eos_token = "</s>";
  }
  Encoding encode(std::string_view, TextPart) const override { return {}; }
  std::string decode(std::span<const std::int32_t>, bool) const override { return ""; }
  std::int64_t vocab_size() const override { return 3; }
  std::optional<std::int32_t> token_id(std::string_view) const override { return std::nullopt; }
  std::string token_text(std::int32_t) const override { return ""; }
  bool is_special(std::int32_t) const override { return false; }
};

std::string go_text(std::string_view name, bool adds_bos = true) {
  return ollama_template(find_template(name).jinja(), TwoTokens(adds_bos));
}

TEST(Modelfile, SaysWhatItIsMadeOf) {
  const Modelfile modelfile{.from = {"./a.gguf"},
                            .chat_template = "{{ .Prompt }}\n",
                            .stop = {"</s>", "<|im_end|>"},
                            .num_ctx = 4096,
                            .license = "apache-2.0"};
  EXPECT_EQ(modelfile_text(modelfile),
            "# Written by tune export: ollama create NAME -f MODELFILE\n"
            "FROM ./a.gguf\n"
            "TEMPLATE \"\"\"{{ .Prompt }}\n\"\"\"\n"
            "PARAMETER stop \"</s>\"\n"
            "PARAMETER stop \"<|im_end|>\"\n"
            "PARAMETER num_ctx 4096\n"
            "LICENSE \"\"\"apache-2.0\"\"\"\n");
}

TEST(Modelfile, NamesAnAdapterAndItsBase) {
  const std::string text = modelfile_text(
      {.from = {"./base.gguf"}, .from_note = "the base", .adapter = "./adapter.gguf", .stop = {}, .num_ctx = 8});
  EXPECT_THAT(text, HasSubstr("# the base\nFROM ./base.gguf\nADAPTER ./adapter.gguf\nPARAMETER num_ctx 8\n"));
}

TEST(Modelfile, LiesBesideItsGguf) {
  EXPECT_EQ(modelfile_path("a.b/model-q4_k_m.gguf"), "a.b/model-q4_k_m.Modelfile");
  EXPECT_EQ(modelfile_path("zephyr.v2"), "zephyr.v2.Modelfile");
}

TEST(Modelfile, LeavesTheFirstBosToLlamaCpp) {
  EXPECT_THAT(go_text("mistral"), Not(HasSubstr("<s>")));
  EXPECT_THAT(go_text("mistral", false), StartsWith("<s>"));
  EXPECT_THAT(go_text("llama2"), HasSubstr("{{ $bos := \"\" }}"));
  EXPECT_THAT(go_text("llama2"), HasSubstr("{{ $bos = \"<s>\" }}")) << "later turns have one";
}

TEST(Modelfile, HasNoTemplateWhereGoCannotSayIt) {
  EXPECT_EQ(go_text("alpaca"), "");
  EXPECT_EQ(go_text("none"), "");
  EXPECT_EQ(ollama_template("{{ messages[0].content }}", TwoTokens(true)), "");
}

TEST(Modelfile, HasNoTemplateForPublishedTextsThatRenderOtherwise) {  // SOLAR's own ends no answer
  std::string solar(find_template("solar").jinja());
  const std::string end = " + eos_token";
  solar.erase(solar.find(end), end.size());
  EXPECT_EQ(recognise_template(solar), "solar");
  EXPECT_EQ(ollama_template(solar, TwoTokens(true)), "");
}

TEST(Modelfile, KeepsAModelsOwnSystemTurn) {
  const std::string jinja =
      "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe "
      "kind<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
      "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
  EXPECT_THAT(ollama_template(jinja, TwoTokens(true)), HasSubstr("<|im_start|>system\nBe kind<|im_end|>\n{{ end }}"));
  EXPECT_THAT(go_text("chatml"), Not(HasSubstr("system")));
}

}  // namespace
}  // namespace tune
