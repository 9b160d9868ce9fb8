#include "data/templates/chat_spans.h"

namespace tune {

namespace {

constexpr std::string_view kJinja =
    "{% for message in messages %}{{ message['content'] }}{% if message['role'] == 'assistant' %}{{ eos_token }}{% "
    "endif %}{% "
    "endfor %}";

// No format: the contents as they are, and EOS after each answer.
class None final : public ChatTemplate {
 public:
  std::string_view name() const override { return "none"; }
  std::string_view jinja() const override { return kJinja; }

  std::vector<Span> render(const std::vector<Message>& messages, const Tokenizer& tokenizer, TrainOn train_on,
                           bool) const override {
    ChatSpans spans(messages, train_on);
    for (std::size_t i = 0; i < messages.size(); ++i) {
      const Message& message = messages[i];
      message.role == "assistant" ? spans.answer(message.content + tokenizer.eos_token, i)
                                  : spans.masked(message.content);
    }
    return spans.take();
  }
};

}  // namespace

const ChatTemplate& none_template() {
  static const None none;
  return none;
}

}  // namespace tune
