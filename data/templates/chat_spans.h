#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "data/templates/template.h"

namespace tune {

/// Collects the spans of a conversation, with the one rule about what is trained: under `all` everything, else the
/// answers, under `last` only the last of them.
class ChatSpans {
 public:
  ChatSpans(const std::vector<Message>& messages, TrainOn train_on);

  void masked(std::string text);
  /// message: the index of the assistant's turn. ends_turn: see Span.
  void answer(std::string text, std::size_t message, bool ends_turn = false);
  std::vector<Span> take() { return std::move(spans_); }

 private:
  TrainOn train_on_;
  std::size_t last_answer_;
  std::vector<Span> spans_;
};

// One a file of this folder; template.cpp lists them.
const ChatTemplate& zephyr_template();
const ChatTemplate& llama2_template();
const ChatTemplate& mistral_template();
const ChatTemplate& solar_template();
const ChatTemplate& codellama_template();
const ChatTemplate& codellama_70b_template();
const ChatTemplate& chatml_template();
const ChatTemplate& alpaca_template();
const ChatTemplate& none_template();

/// Mistral's Jinja text for tokenizers that put a space of their own behind BOS and EOS.
std::string_view mistral_jinja_without_space();

}  // namespace tune
