#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "data/templates/template.h"

namespace tune {

/// The name of the format that a model's own Jinja text speaks; "" for one that isn't known. Known are the texts that
/// were published with models of that format: they are compared whole, but for spelling (white space that doesn't reach
/// the output, quotes, escapes) and for the words of chatml's own system turn. Never executed.
std::string_view recognise_template(std::string_view jinja);

/// The same, only of a text that renders what the format's own does (Mistral's with or without a space before [INST]).
std::string_view equivalent_template(std::string_view jinja);

/// The format whose marks are in the text, which may be another one all the same: good for advice only. "" for none.
std::string_view resembling_template(std::string_view jinja);

/// Whether the model's own Jinja text renders what `format` renders with this tokenizer, as far as can be told: it is
/// kept when the model is exported then, for it may say more (tools).
bool own_template_serves(const ChatTemplate& format, const Tokenizer& tokenizer);

/// What `chat_template: model` means. Error{Fault::recipe} where the model has no Jinja text or one that isn't known.
const ChatTemplate& own_template(const Tokenizer& tokenizer);

/// What a person should know before these data sets' conversations are put into this format for this model, a sentence
/// each: what the format itself says, and that the model's own is another one. None where there are no conversations.
std::vector<std::string> template_warnings(const ChatTemplate& format, const Tokenizer& tokenizer, Stage stage,
                                           const std::vector<DatasetOptions>& datasets);

}  // namespace tune
