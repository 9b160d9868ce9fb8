#include "data/templates/chat_spans.h"

namespace tune {

namespace {

// As published with upstage/SOLAR-10.7B-Instruct-v1.0, but for EOS behind each answer: there nothing ends an answer.
constexpr std::string_view kJinja =
    "{% for message in messages %}{% if message['role'] == 'system' %}{% if message['content']%}{{'### System:\\n' + "
    "message['content']+'\\n\\n'}}{% endif %}{% elif message['role'] == 'user' %}{{'### User:\\n' + "
    "message['content']+'\\n\\n'}}{% elif message['role'] == 'assistant' %}{{'### Assistant:\\n'  + "
    "message['content'] + eos_token}}{% endif %}{% if loop.last and add_generation_prompt %}{{ '### Assistant:\\n' "
    "}}{% endif %}{% endfor %}";

class Solar final : public ChatTemplate {
 public:
  std::string_view name() const override { return "solar"; }
  std::string_view jinja() const override { return kJinja; }

  std::vector<Span> render(const std::vector<Message>& messages, const Tokenizer& tokenizer, TrainOn train_on,
                           bool add_generation_prompt) const override {
    ChatSpans spans(messages, train_on);
    for (std::size_t i = 0; i < messages.size(); ++i) {
      const auto& [role, content] = messages[i];
      if (role == "system" && !content.empty()) spans.masked("### System:\n" + content + "\n\n");
      if (role == "user") spans.masked("### User:\n" + content + "\n\n");
      if (role == "assistant") {
        spans.masked("### Assistant:\n");
        spans.answer(content + tokenizer.eos_token, i);
      }
    }
    if (add_generation_prompt && !messages.empty()) spans.masked("### Assistant:\n");
    return spans.take();
  }
};

}  // namespace

const ChatTemplate& solar_template() {
  static const Solar solar;
  return solar;
}

}  // namespace tune
