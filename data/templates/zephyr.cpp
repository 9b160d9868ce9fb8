#include "data/templates/chat_spans.h"

namespace tune {

namespace {

// As published with HuggingFaceH4/zephyr-7b-beta.
constexpr std::string_view kJinja =
    "{% for message in messages %}\n"
    "{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n"
    "{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n"
    "{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n"
    "{{ '<|assistant|>' }}\n"
    "{% endif %}\n"
    "{% endfor %}";

class Zephyr final : public ChatTemplate {
 public:
  std::string_view name() const override { return "zephyr"; }
  std::string_view jinja() const override { return kJinja; }

  std::vector<Span> render(const std::vector<Message>& messages, const Tokenizer& tokenizer, TrainOn train_on,
                           bool add_generation_prompt) const override {
    ChatSpans spans(messages, train_on);
    for (std::size_t i = 0; i < messages.size(); ++i) {
      spans.masked("<|" + messages[i].role + "|>\n");
      const std::string turn = messages[i].content + tokenizer.eos_token;
      messages[i].role == "assistant" ? spans.answer(turn, i) : spans.masked(turn);
      spans.masked("\n");
    }
    if (add_generation_prompt && !messages.empty()) spans.masked("<|assistant|>\n");
    return spans.take();
  }
};

}  // namespace

const ChatTemplate& zephyr_template() {
  static const Zephyr zephyr;
  return zephyr;
}

}  // namespace tune
