#include "data/sources/stretches.h"

#include <algorithm>

#include "data/tokenizer/piece_text.h"
#include "data/tokenizer/utf8.h"

namespace tune {

namespace {

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

// The character that ends at text[end].
std::string_view character_before(std::string_view text, std::size_t end) {
  std::size_t begin = end - 1;
  while (begin > 0 && is_continuation(text[begin])) --begin;
  return text.substr(begin, end - begin);
}

bool is_space_character(std::string_view character) { return is_space(utf8_code_point(character, 0)); }

bool is_place_to_cut(std::string_view text, std::size_t at) {
  if (at == 0 || at >= text.size()) return false;
  const std::string_view before = character_before(text, at);
  if (text[at] == ' ') return !is_space_character(before) && before != kEscapedSpace;
  return before == "\n" && at > 1 && !is_space_character(character_before(text, at - 1)) &&
         !is_space_character(text.substr(at));
}

std::size_t end_without_trailing_space(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    const std::string_view last = character_before(text, end);
    if (!is_space_character(last)) break;
    end -= last.size();
  }
  return end;
}

}  // namespace

std::size_t stretch_end(std::string_view text, bool more_follows) {
  if (text.size() <= kStretchBytes && !more_follows) return text.size();
  const std::size_t last = end_without_trailing_space(text);  // a cut lies before the last visible character
  for (std::size_t at = std::min(kStretchBytes, last); at > 0; --at)
    if (at < last && is_place_to_cut(text, at)) return at;
  for (std::size_t at = kStretchBytes; at < std::min(kLongestStretchBytes, last); ++at)
    if (is_place_to_cut(text, at)) return at;
  std::size_t end = std::min(kLongestStretchBytes, text.size());
  while (end < text.size() && end > 1 && is_continuation(text[end])) --end;
  return end;
}

}  // namespace tune
