#include "data/templates/alternating.h"
#include "data/templates/chat_spans.h"
#include "data/tokenizer/piece_text.h"

namespace tune {

namespace {

// As published with mistralai/Mixtral-8x7B-Instruct-v0.1 since 2024.
constexpr std::string_view kJinja =
    "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content'] %}\n    {%- set "
    "loop_messages = messages[1:] %}\n{%- else %}\n    {%- set loop_messages = messages %}\n{%- endif %}\n\n{{- "
    "bos_token }}\n{%- for message in loop_messages %}\n    {%- if (message['role'] == 'user') != (loop.index0 % 2 == "
    "0) %}\n        {{- raise_exception('After the optional system message, conversation roles must alternate "
    "user/assistant/user/assistant/...') }}\n    {%- endif %}\n    {%- if message['role'] == 'user' %}\n        {%- if "
    "loop.first and system_message is defined %}\n            {{- ' [INST] ' + system_message + '\\n\\n' + "
    "message['content'] + ' [/INST]' }}\n        {%- else %}\n            {{- ' [INST] ' + message['content'] + ' "
    "[/INST]' }}\n        {%- endif %}\n    {%- elif message['role'] == 'assistant' %}\n        {{- ' ' + "
    "message['content'] + eos_token}}\n    {%- else %}\n        {{- raise_exception('Only user and assistant roles are "
    "supported, with the exception of an initial optional system message!') }}\n    {%- endif %}\n{%- endfor %}\n";

// Mistral's own ids (mistral_common, v1) are those of each turn for itself: [INST] follows BOS and EOS as the piece
// that begins with a space. Either the tokenizer puts that space there (legacy: true, llama.cpp) or the text has to.
bool text_has_the_space(const Tokenizer& tokenizer) {
  const std::string piece = std::string(kEscapedSpace) + "[";
  if (!tokenizer.token_id(piece)) return false;
  const std::vector<std::int32_t> ids = tokenizer.encode(tokenizer.eos_token + "[").ids;
  return ids.empty() || tokenizer.token_text(ids.back()) != piece;
}

class Mistral final : public ChatTemplate {
 public:
  std::string_view name() const override { return "mistral"; }
  std::string_view jinja() const override { return kJinja; }
  std::string_view jinja_for(const Tokenizer& tokenizer) const override {
    return text_has_the_space(tokenizer) ? kJinja : mistral_jinja_without_space();
  }
  std::string warning(const Tokenizer& tokenizer) const override {
    if (!tokenizer.token_id("[INST]")) return ChatTemplate::warning(tokenizer);
    return "the tokenizer has a token [INST], so the model speaks a later format of Mistral's than template mistral, "
           "that of Mixtral 8x7B and Mistral 7B Instruct v0.1 and v0.2";
  }

  // There is no generation prompt: [/INST] is where an answer begins. The space after it belongs to the answer.
  std::vector<Span> render(const std::vector<Message>& messages, const Tokenizer& tokenizer, TrainOn train_on,
                           bool) const override {
    const bool has_system = check_alternation(messages, name());
    const std::string begin = text_has_the_space(tokenizer) ? " [INST] " : "[INST] ";
    ChatSpans spans(messages, train_on);
    spans.masked(tokenizer.bos_token);
    for (std::size_t i = has_system; i < messages.size(); ++i) {
      const std::string& content = messages[i].content;
      if (messages[i].role == "assistant")
        spans.answer(" " + content + tokenizer.eos_token, i);
      else
        spans.masked(begin + (has_system && i == 1 ? messages[0].content + "\n\n" : "") + content + " [/INST]");
    }
    return spans.take();
  }
};

}  // namespace

std::string_view mistral_jinja_without_space() {
  static const std::string text = [] {
    std::string jinja(kJinja);
    constexpr std::string_view kSpaced = "' [INST] '";
    for (std::size_t at = 0; (at = jinja.find(kSpaced, at)) != std::string::npos;) jinja.erase(at + 1, 1);
    return jinja;
  }();
  return text;
}

const ChatTemplate& mistral_template() {
  static const Mistral mistral;
  return mistral;
}

}  // namespace tune
