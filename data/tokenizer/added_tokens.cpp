#include "data/tokenizer/added_tokens.h"

#include <algorithm>
#include <limits>

#include "data/tokenizer/pre_tokenizer.h"
#include "data/tokenizer/utf8.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

std::size_t character_before(std::string_view text, std::size_t end) {
  std::size_t start = end - 1;
  while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
  return start;
}

bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
  const auto word_at = [&](std::size_t i) { return is_word_character(text.substr(i, utf8_length(text, i))); };
  const bool free_left = begin == 0 || !word_at(character_before(text, begin));
  const bool free_right = end == text.size() || !word_at(end);
  return free_left && free_right;
}

std::size_t skip_spaces_left(std::string_view text, std::size_t begin, std::size_t limit) {
  while (begin > limit) {
    const std::size_t previous = character_before(text, begin);
    if (previous < limit || !is_space(utf8_code_point(text, previous))) break;
    begin = previous;
  }
  return begin;
}

std::size_t skip_spaces_right(std::string_view text, std::size_t end) {
  while (end < text.size() && is_space(utf8_code_point(text, end))) end += utf8_length(text, end);
  return end;
}

}  // namespace

TokenizerWithAddedTokens::TokenizerWithAddedTokens(std::unique_ptr<TextModel> model, std::vector<AddedToken> added)
    : model_(std::move(model)), added_(std::move(added)) {
  for (const AddedToken& token : added_) {
    if (token.content.empty()) continue;
    by_id_[token.id] = &token;
    by_content_[token.content] = &token;
  }
  for (const auto& [content, token] : by_content_) {
    (token->normalized ? second_ : first_)[static_cast<unsigned char>(content[0])].push_back(token);
  }
  for (Finder* finder : {&first_, &second_}) {
    for (auto& tokens : *finder) {
      std::sort(tokens.begin(), tokens.end(),
                [](const AddedToken* a, const AddedToken* b) { return a->content.size() > b->content.size(); });
    }
  }
}

std::vector<TokenizerWithAddedTokens::Match> TokenizerWithAddedTokens::matches(const Finder& finder,
                                                                               std::string_view whole,
                                                                               std::size_t begin,
                                                                               std::size_t end) const {
  std::vector<Match> found;
  const std::string_view text = whole.substr(0, end);
  std::size_t free_from = begin;
  for (std::size_t i = begin; i < end;) {
    const auto& candidates = finder[static_cast<unsigned char>(text[i])];
    const auto hit = std::find_if(candidates.begin(), candidates.end(),
                                  [&](const AddedToken* token) { return text.substr(i).starts_with(token->content); });
    if (hit == candidates.end()) {
      ++i;
      continue;
    }
    const AddedToken* token = *hit;
    Match match{token, i, i + token->content.size()};
    i = match.end;
    if (token->single_word && !stands_alone(text.substr(begin), match.begin - begin, match.end - begin)) continue;
    if (token->lstrip) match.begin = skip_spaces_left(text, match.begin, free_from);
    if (token->rstrip) match.end = skip_spaces_right(text, match.end);
    found.push_back(match);
    free_from = match.end;
    i = std::max(i, match.end);
  }
  return found;
}

void TokenizerWithAddedTokens::encode_between(std::string_view text, std::size_t begin, std::size_t end, Before before,
                                              Encoding& encoding) const {
  std::size_t at = begin;
  const auto encode_up_to = [&](std::size_t stop) {
    if (at < stop) model_->encode(text.substr(at, stop - at), static_cast<std::int32_t>(at), before, encoding);
    before = Before::added_token;
  };
  for (const Match& match : matches(second_, text, begin, end)) {
    encode_up_to(match.begin);
    encoding.ids.push_back(match.token->id);
    encoding.begin.push_back(static_cast<std::int32_t>(match.begin));
    at = match.end;
  }
  encode_up_to(end);
}

Encoding TokenizerWithAddedTokens::encode(std::string_view text, TextPart part) const {
  TUNE_CHECK(text.size() < std::numeric_limits<std::int32_t>::max(), "a text of {} bytes is too long to encode at once",
             text.size());
  Encoding encoding;
  std::size_t at = 0;
  Before before = begins(part) ? Before::nothing : Before::text;
  for (const Match& match : matches(first_, text, 0, text.size())) {
    encode_between(text, at, match.begin, before, encoding);
    before = Before::added_token;
    encoding.ids.push_back(match.token->id);
    encoding.begin.push_back(static_cast<std::int32_t>(match.begin));
    at = match.end;
  }
  encode_between(text, at, text.size(), before, encoding);
  return encoding;
}

Encoding TokenizerWithAddedTokens::encode_plain(std::string_view text) const {
  TUNE_CHECK(text.size() < std::numeric_limits<std::int32_t>::max(), "a text of {} bytes is too long to encode at once",
             text.size());
  Encoding encoding;
  if (!text.empty()) model_->encode(text, 0, Before::nothing, encoding);
  return encoding;
}

std::string TokenizerWithAddedTokens::decode(std::span<const std::int32_t> ids, bool skip_special) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const std::int32_t id : ids) {
    if (skip_special && is_special(id)) continue;
    tokens.push_back(token_text(id));
  }
  return model_->decode(tokens);
}

std::int64_t TokenizerWithAddedTokens::vocab_size() const {
  std::int64_t size = model_->size();
  for (const AddedToken& token : added_) size = std::max<std::int64_t>(size, token.id + 1);
  return size;
}

std::optional<std::int32_t> TokenizerWithAddedTokens::token_id(std::string_view token) const {
  const auto found = by_content_.find(token);
  return found != by_content_.end() ? found->second->id : model_->token_id(token);
}

std::string TokenizerWithAddedTokens::token_text(std::int32_t id) const {
  const auto found = by_id_.find(id);
  return found != by_id_.end() ? found->second->content : model_->token_text(id);
}

bool TokenizerWithAddedTokens::is_special(std::int32_t id) const {
  const auto found = by_id_.find(id);
  return found != by_id_.end() && found->second->special;
}

}  // namespace tune
