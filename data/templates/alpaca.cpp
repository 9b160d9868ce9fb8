#include "data/templates/chat_spans.h"

namespace tune {

namespace {

// Stanford Alpaca's prompt, for conversations: the user's message is the instruction; one that holds the heading
// "### Input:" brings its input along and gets the other preamble. A system message stands in for the preamble.
constexpr std::string_view kInputHeading = "\n\n### Input:\n";
constexpr std::string_view kPreamble =
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.";
constexpr std::string_view kPreambleWithInput =
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that "
    "appropriately completes the request.";

constexpr std::string_view kJinja =
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{% if loop.first %}{% if '\n\n### Input:\n' in message['content'] %}"
    "{{ 'Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response "
    "that appropriately completes the request.\n\n' }}{% else %}"
    "{{ 'Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n' }}"
    "{% endif %}{% endif %}{{ '### Instruction:\n' + message['content'] + '\n\n### Response:\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% if not loop.last %}{{ '\n\n' }}{% endif %}{% endif %}{% endfor %}";

std::string preamble(const std::string& instruction) {
  const bool has_input = instruction.find(kInputHeading) != std::string::npos;
  return std::string(has_input ? kPreambleWithInput : kPreamble) + "\n\n";
}

class Alpaca final : public ChatTemplate {
 public:
  std::string_view name() const override { return "alpaca"; }
  std::string_view jinja() const override { return kJinja; }

  // The user's turn ends where the answer begins, so there is nothing to add for a generation prompt.
  std::vector<Span> render(const std::vector<Message>& messages, const Tokenizer& tokenizer, TrainOn train_on,
                           bool) const override {
    ChatSpans spans(messages, train_on);
    for (std::size_t i = 0; i < messages.size(); ++i) {
      const Message& message = messages[i];
      if (message.role == "system") spans.masked(message.content + "\n\n");
      if (message.role == "user") {
        spans.masked((i == 0 ? preamble(message.content) : "") + "### Instruction:\n" + message.content +
                     "\n\n### Response:\n");
      }
      if (message.role == "assistant") {
        spans.answer(message.content + tokenizer.eos_token, i);
        if (i + 1 < messages.size()) spans.masked("\n\n");
      }
    }
    return spans.take();
  }
};

}  // namespace

const ChatTemplate& alpaca_template() {
  static const Alpaca alpaca;
  return alpaca;
}

}  // namespace tune
