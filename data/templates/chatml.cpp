#include "data/templates/chat_spans.h"

namespace tune {

namespace {

constexpr std::string_view kJinja =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% "
    "endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

// Models such as SmolLM2-Instruct have a chatml template that begins every conversation without a system message with
// one of its own: {% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n...<|im_end|>\n' }}.
std::string default_system_turn(std::string_view model_template) {
  constexpr std::string_view kCondition = "messages[0]['role'] != 'system'", kBegin = "<|im_start|>system",
                             kEnd = "<|im_end|>";
  const std::size_t condition = model_template.find(kCondition);
  if (condition == std::string_view::npos) return "";
  const std::size_t begin = model_template.find(kBegin, condition);
  const std::size_t end = begin == std::string_view::npos ? begin : model_template.find(kEnd, begin);
  if (end == std::string_view::npos) return "";
  std::string_view text = model_template.substr(begin + kBegin.size(), end - begin - kBegin.size());
  // The line break is a real one or spelled \n inside the Jinja string.
  if (text.starts_with("\\n")) text.remove_prefix(2);
  if (text.starts_with("\n")) text.remove_prefix(1);
  const bool plain = text.find_first_of("'\"{}\\") == std::string_view::npos;
  return plain ? std::string(kBegin) + "\n" + std::string(text) + std::string(kEnd) + "\n" : "";
}

class Chatml final : public ChatTemplate {
 public:
  std::string_view name() const override { return "chatml"; }
  std::string_view jinja() const override { return kJinja; }
  std::string_view end_of_turn() const override { return "<|im_end|>"; }

  std::vector<Span> render(const std::vector<Message>& messages, const Tokenizer& tokenizer, TrainOn train_on,
                           bool add_generation_prompt) const override {
    ChatSpans spans(messages, train_on);
    if (!messages.empty() && messages[0].role != "system") spans.masked(default_system_turn(tokenizer.chat_template));
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
