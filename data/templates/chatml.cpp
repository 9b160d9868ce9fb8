#include "data/templates/chat_spans.h"
#include "data/templates/default_system_turn.h"

namespace tune {

namespace {

constexpr std::string_view kJinja =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% "
    "endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

class Chatml final : public ChatTemplate {
 public:
  std::string_view name() const override { return "chatml"; }
  std::string_view jinja() const override { return kJinja; }
  std::string_view end_of_turn() const override { return "<|im_end|>"; }
  std::string warning(const Tokenizer& tokenizer) const override {
    if (!default_system_turn(tokenizer.chat_template).unclear) return ChatTemplate::warning(tokenizer);
    return "the model's own chat template puts a system message of its own before conversations without one, in a way "
           "that isn't understood here, so none is put there; write a system message into each row";
  }

  std::vector<Span> render(const std::vector<Message>& messages, const Tokenizer& tokenizer, TrainOn train_on,
                           bool add_generation_prompt) const override {
    ChatSpans spans(messages, train_on);
    // Models such as SmolLM2-Instruct begin every conversation without a system message with one of their own.
    if (!messages.empty() && messages[0].role != "system")
      spans.masked(default_system_turn(tokenizer.chat_template).text);
    for (std::size_t i = 0; i < messages.size(); ++i) {
      spans.masked("<|im_start|>" + messages[i].role + "\n");
      const std::string turn = messages[i].content + "<|im_end|>";
      messages[i].role == "assistant" ? spans.answer(turn, i) : spans.masked(turn);
      spans.masked("\n");
    }
    if (add_generation_prompt) spans.masked("<|im_start|>assistant\n");
    return spans.take();
  }
};

}  // namespace

const ChatTemplate& chatml_template() {
  static const Chatml chatml;
  return chatml;
}

}  // namespace tune
