#include "data/templates/template.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "data/templates/chat_spans.h"
#include "data/tokenizer/utf8.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

using TemplateFunction = const ChatTemplate& (*)();
constexpr std::array<TemplateFunction, kChatTemplates.size()> kTemplates = {
    zephyr_template, llama2_template, chatml_template, alpaca_template, none_template};

// Where each span ends in the joined text.
std::vector<std::size_t> ends_of(const std::vector<Span>& spans) {
  std::vector<std::size_t> ends;
  std::size_t end = 0;
  for (const Span& span : spans) ends.push_back(end += span.text.size());
  return ends;
}

// Whether the last trained token (white space apart) ends a turn, or belongs to a prompt, which an answer would have to
// follow; true where nothing is trained. `from`: how many ids of the row stand before those of the encoding.
bool trained_part_is_ended(const Row& row, const Encoding& encoding, std::size_t from, std::string_view text,
                           const std::vector<bool>& in_prompt, const Tokenizer& tokenizer) {
  std::size_t end = text.size();
  for (std::size_t i = encoding.ids.size(); i-- > 0;) {
    const auto begin = static_cast<std::size_t>(encoding.begin[i]);
    const std::string_view token = text.substr(begin, end - begin);
    end = begin;
    if (!row.trained[from + i] || strip(token).empty()) continue;
    return in_prompt[i] || encoding.ids[i] == tokenizer.eos_id || tokenizer.is_special(encoding.ids[i]);
  }
  return true;
}

}  // namespace

ChatSpans::ChatSpans(const std::vector<Message>& messages, TrainOn train_on)
    : train_on_(train_on), last_answer_(messages.size()) {
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == "assistant") last_answer_ = i;
  }
}

void ChatSpans::masked(std::string text) { spans_.push_back({std::move(text), train_on_ == TrainOn::all, true}); }

void ChatSpans::answer(std::string text, std::size_t message) {
  spans_.push_back({std::move(text), train_on_ != TrainOn::last || message == last_answer_});
}

std::string ChatTemplate::warning(const Tokenizer& tokenizer) const {
  if (end_of_turn().empty() || tokenizer.token_id(end_of_turn())) return "";
  return fmt::format(
      "the tokenizer has no token {}, so that template {} spells it in pieces and answers end late; "
      "choose another data.chat_template: zephyr, llama2, alpaca",
      end_of_turn(), name());
}

const ChatTemplate& find_template(std::string_view name) {
  for (const TemplateFunction get : kTemplates) {
    if (get().name() == name) return get();
  }
  TUNE_CHECK(false, "there is no template {}", name);
}

std::string_view recognise_template(std::string_view jinja) {
  static constexpr std::pair<std::string_view, std::string_view> kMarks[] = {
      {"chatml", "<|im_start|>"}, {"zephyr", "<|assistant|>"}, {"llama2", "<<SYS>>"}, {"alpaca", "### Response"}};
  for (const auto& [name, mark] : kMarks)
    if (jinja.find(mark) != std::string_view::npos) return name;
  return "";
}

Row encode_spans(const std::vector<Span>& spans, const Tokenizer& tokenizer, bool add_bos, TextPart part) {
  std::string text;
  for (const Span& span : spans) text += span.text;
  const Encoding encoding = tokenizer.encode(text, part);
  const std::vector<std::size_t> span_ends = ends_of(spans);

  Row row;
  const auto add = [&](std::int32_t id, bool trained) {
    row.ids.push_back(id);
    row.trained.push_back(trained);
  };
  // A text that spells its own BOS must not get a second one.
  const bool has_bos = !encoding.ids.empty() && tokenizer.bos_id == encoding.ids.front();
  if (add_bos && begins(part) && tokenizer.bos_id && !has_bos) add(*tokenizer.bos_id, false);
  const std::size_t from = row.ids.size();
  std::size_t span = 0;
  std::vector<bool> in_prompt(encoding.ids.size());
  for (std::size_t i = 0; i < encoding.ids.size(); ++i) {
    while (span + 1 < spans.size() && static_cast<std::size_t>(encoding.begin[i]) >= span_ends[span]) ++span;
    add(encoding.ids[i], spans[span].trained);
    in_prompt[i] = spans[span].is_prompt;
  }
  if (ends(part) && tokenizer.eos_id && !trained_part_is_ended(row, encoding, from, text, in_prompt, tokenizer))
    add(*tokenizer.eos_id, true);
  return row;
}

}  // namespace tune
