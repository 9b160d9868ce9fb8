#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/row.h"
#include "data/tokenizer/tokenizer.h"
#include "recipes/schema/recipe.h"

namespace tune {

struct Message {
  std::string role;  // system | user | assistant
  std::string content;
};

/// A piece of the rendered text; the mask is born here and only carried on.
struct Span {
  std::string text;
  bool trained = false;
  bool is_prompt = false;  // what an answer is still to come for, even where it is trained
};

/// A prompt format. render() gives, joined, byte for byte what transformers' apply_chat_template gives for the same
/// conversation and the model's own template.
class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;
  virtual std::string_view name() const = 0;
  /// add_generation_prompt: end where the assistant's next answer begins. Error{Fault::data} (no place; the caller
  /// knows it) for conversations the format cannot express.
  virtual std::vector<Span> render(const std::vector<Message>& messages, const Tokenizer& tokenizer, TrainOn train_on,
                                   bool add_generation_prompt) const = 0;
  /// The Jinja text that goes into exported tokenizer files.
  virtual std::string_view jinja() const = 0;
  /// The token that ends a turn where it is not the tokenizer's EOS; else "".
  virtual std::string_view end_of_turn() const { return ""; }
  /// What a person should know before this format is used with this tokenizer; "" where there is nothing to say.
  virtual std::string warning(const Tokenizer& tokenizer) const;
};

/// One of kChatTemplates, which is what a recipe may name.
const ChatTemplate& find_template(std::string_view name);

/// The name of the format that a model's own Jinja text speaks; "" for one that is not among ours.
std::string_view recognise_template(std::string_view jinja);

/// Encodes the joined text in one go (as transformers does), then marks as trained every token that begins in a trained
/// span. Makes sure that every trained turn ends in a trained end-of-turn token: EOS is appended where the format has
/// none. Of a text in parts the first alone gets a BOS, the last alone an EOS.
Row encode_spans(const std::vector<Span>& spans, const Tokenizer& tokenizer, bool add_bos,
                 TextPart part = TextPart::whole);

}  // namespace tune
