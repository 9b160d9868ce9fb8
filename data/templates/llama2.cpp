#include "data/templates/alternating.h"
#include "data/templates/chat_spans.h"
#include "data/tokenizer/utf8.h"

namespace tune {

namespace {

// As published with meta-llama/Llama-2-7b-chat-hf.
constexpr std::string_view kJinja =
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = "
    "messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif "
    "%}{% for "
    "message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ "
    "raise_exception('Conversation "
    "roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message "
    "!= false "
    "%}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set "
    "content = "
    "message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' "
    "[/INST]' "
    "}}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}";

// Code Llama's Instruct models of 7, 13 and 34B speak the same format.
class Llama2 final : public ChatTemplate {
 public:
  explicit Llama2(std::string_view name) : name_(name) {}
  std::string_view name() const override { return name_; }
  std::string_view jinja() const override { return kJinja; }

  // There is no generation prompt: [/INST] is where an answer begins. The space after it belongs to the answer's first
  // token, and so to the answer.
  std::vector<Span> render(const std::vector<Message>& messages, const Tokenizer& tokenizer, TrainOn train_on,
                           bool) const override {
    const bool has_system = check_alternation(messages, name_);
    ChatSpans spans(messages, train_on);
    for (std::size_t i = has_system; i < messages.size(); ++i) {
      std::string content = messages[i].content;
      if (has_system && i == 1) content = "<<SYS>>\n" + messages[0].content + "\n<</SYS>>\n\n" + content;
      const std::string stripped(strip(content));
      if (messages[i].role == "user") {
        spans.masked(tokenizer.bos_token + "[INST] " + stripped + " [/INST]");
      } else {
        spans.answer(" " + stripped + " " + tokenizer.eos_token, i);
      }
    }
    return spans.take();
  }

 private:
  std::string_view name_;
};

}  // namespace

const ChatTemplate& llama2_template() {
  static const Llama2 llama2("llama2");
  return llama2;
}

const ChatTemplate& codellama_template() {
  static const Llama2 codellama("codellama");
  return codellama;
}

}  // namespace tune
