#include "data/templates/alternating.h"
#include "data/templates/chat_spans.h"
#include "data/tokenizer/utf8.h"

namespace tune {

namespace {

// As published with codellama/CodeLlama-70b-Instruct-hf, but for the last line's condition: there every text ends in
// the beginning of an answer.
constexpr std::string_view kJinja =
    "{% if messages[0]['role'] == 'system' %}{% set user_index = 1 %}{% else %}{% set user_index = 0 %}{% endif %}{% "
    "for message in messages %}{% if (message['role'] == 'user') != ((loop.index0 + user_index) % 2 == 0) %}{{ "
    "raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if "
    "loop.index0 == 0 %}{{ '<s>' }}{% endif %}{% set content = 'Source: ' + message['role'] + '\\n\\n ' + "
    "message['content'] | trim %}{{ content + ' <step> ' }}{% endfor %}{% if add_generation_prompt %}{{'Source: "
    "assistant\\nDestination: user\\n\\n '}}{% endif %}";

class CodeLlama70b final : public ChatTemplate {
 public:
  std::string_view name() const override { return "codellama-70b"; }
  std::string_view jinja() const override { return kJinja; }
  std::string_view end_of_turn() const override { return "<step>"; }

  std::vector<Span> render(const std::vector<Message>& messages, const Tokenizer& tokenizer, TrainOn train_on,
                           bool add_generation_prompt) const override {
    check_alternation(messages, name());
    const bool has_step = tokenizer.token_id(end_of_turn()).has_value();
    ChatSpans spans(messages, train_on);
    for (std::size_t i = 0; i < messages.size(); ++i) {
      const std::string content(strip(messages[i].content));
      spans.masked((i == 0 ? "<s>Source: " : "Source: ") + messages[i].role);
      // <step> swallows the white space beside it; behind a blank answer that is all there is.
      if (messages[i].role != "assistant") {
        spans.masked("\n\n " + content + " <step>");
      } else if (content.empty()) {
        spans.answer("\n\n  <step>", i, has_step);
      } else {
        spans.masked("\n\n");
        spans.answer(" " + content + " <step>", i, has_step);
      }
      spans.masked(" ");
    }
    if (add_generation_prompt) spans.masked("Source: assistant\nDestination: user\n\n ");
    return spans.take();
  }
};

}  // namespace

const ChatTemplate& codellama_70b_template() {
  static const CodeLlama70b codellama_70b;
  return codellama_70b;
}

}  // namespace tune
