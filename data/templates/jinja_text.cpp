#include "data/templates/jinja_text.h"

#include <algorithm>
#include <cctype>

namespace tune {

namespace {

constexpr std::string_view kSpaces = " \t\r\n\f\v";

bool is_name_character(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

std::size_t end_of_quoted(std::string_view text, std::size_t begin) {
  std::size_t end = begin + 1;
  while (end < text.size() && text[end] != text[begin]) end += text[end] == '\\' ? 2 : 1;
  return std::min(end + 1, text.size());
}

// Behind the closing braces of the tag {{, {% or {# at text[begin]; npos where it or a text in it isn't closed.
std::size_t end_of_tag(std::string_view text, std::size_t begin) {
  const char kind = text[begin + 1], closing = kind == '{' ? '}' : kind;
  for (std::size_t i = begin + 2; i + 1 < text.size(); ++i) {
    if (kind != '#' && (text[i] == '\'' || text[i] == '"')) i = end_of_quoted(text, i);
    if (i < text.size() && text.substr(i, 2) == std::string{closing, '}'}) return i + 2;
  }
  return std::string_view::npos;
}

// What Python makes of a backslash and `escape`. Escapes by number or name, which no template needs, become something
// that is in no other text.
std::string unescaped(char escape) {
  constexpr std::string_view kPlain = "\\'\"", kByNumberOrName = "01234567xuUNabfv";
  if (escape == 'n') return "\n";
  if (escape == 't') return "\t";
  if (escape == 'r') return "\r";
  if (escape == '\n') return "";
  if (kPlain.find(escape) != std::string_view::npos) return {escape};
  return std::string(kByNumberOrName.find(escape) != std::string_view::npos ? "\x01" : "\\") + escape;
}

// A text in quotes as its bytes, and back in one spelling.
std::string unquoted(std::string_view quoted) {
  std::string text;
  for (std::size_t i = 1; i + 1 < quoted.size(); ++i) {
    if (quoted[i] != '\\' || i + 2 == quoted.size()) {
      text += quoted[i];
      continue;
    }
    text += unescaped(quoted[++i]);
  }
  return text;
}

std::string requoted(const std::string& text) {
  std::string quoted;
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (c == '\n')
      quoted += "\\n";
    else
      quoted += c;
  }
  return quoted;
}

std::string without_words_of_system_turn(std::string text) {
  constexpr std::string_view kBegin = "<|im_start|>system\n", kEnd = "<|im_end|>";
  if (text.starts_with(kBegin))
    if (const std::size_t end = text.find(kEnd); end != std::string::npos)
      text.replace(kBegin.size(), end - kBegin.size(), "...");
  return text;
}

// What stands inside a tag.
class Expression {
 public:
  explicit Expression(std::string_view text) : text_(text) {}

  std::string plain() {
    for (std::size_t i = 0; i < text_.size();) {
      if (kSpaces.find(text_[i]) != std::string_view::npos)
        i = skip_spaces(i);
      else if (text_[i] == '\'' || text_[i] == '"')
        i = take_quoted(i);
      else if (text_[i] == '[' && name_in_brackets(i) > 0)
        i = take_name(i);
      else
        result_ += text_[i++];
    }
    return std::move(result_);
  }

 private:
  // One space stays between two words, and between signs that would be another one together.
  std::size_t skip_spaces(std::size_t i) {
    constexpr std::string_view kSigns = "=!<>*/+-%{}#|~";
    const auto is_sign = [&](char c) { return kSigns.find(c) != std::string_view::npos; };
    const std::size_t next = std::min(text_.find_first_not_of(kSpaces, i), text_.size());
    if (result_.empty() || next == text_.size()) return next;
    const char before = result_.back(), behind = text_[next];
    if ((is_name_character(before) && is_name_character(behind)) || (is_sign(before) && is_sign(behind)))
      result_ += ' ';
    return next;
  }

  std::size_t take_quoted(std::size_t i) {
    const std::size_t end = end_of_quoted(text_, i);
    const std::string text = unquoted(text_.substr(i, end - i));
    const std::size_t next = text_.find_first_not_of(kSpaces, end);
    const bool filtered = next != std::string_view::npos && (text_[next] == '|' || text_[next] == '.');
    if (result_.ends_with("\"+") && !filtered) {
      result_.resize(result_.size() - 2);
    } else {
      result_ += '"';
    }
    result_ += requoted(without_words_of_system_turn(text)) + '"';
    return end;
  }

  // Length of ['name'] at i; 0 for anything else, or where there is nothing before it.
  std::size_t name_in_brackets(std::size_t i) const {
    if (i + 1 >= text_.size() || (text_[i + 1] != '\'' && text_[i + 1] != '"')) return 0;
    const bool indexes = !result_.empty() && (is_name_character(result_.back()) || result_.back() == ']');
    const std::size_t end = end_of_quoted(text_, i + 1);
    const std::string_view name = text_.substr(i + 2, end - i - 3);
    const bool is_name = !name.empty() && std::all_of(name.begin(), name.end(), is_name_character);
    return indexes && is_name && end < text_.size() && text_[end] == ']' ? end + 1 - i : 0;
  }

  std::size_t take_name(std::size_t i) {
    const std::size_t length = name_in_brackets(i);
    result_ += '.';
    result_ += text_.substr(i + 2, length - 4);
    return i + length;
  }

  std::string_view text_;
  std::string result_;
};

std::size_t next_tag(std::string_view jinja, std::size_t from) {
  return std::min({jinja.find("{{", from), jinja.find("{%", from), jinja.find("{#", from), jinja.size()});
}

// The text between two tags as far as it reaches the output.
std::string_view kept(std::string_view text, std::string_view tag_before, std::string_view tag_after) {
  const auto is_block = [](std::string_view tag) { return tag.starts_with("{%") || tag.starts_with("{#"); };
  bool starts_a_line = tag_before.empty();
  if (tag_before.size() > 4 && tag_before[tag_before.size() - 3] == '-') {
    text.remove_prefix(std::min(text.find_first_not_of(kSpaces), text.size()));
  } else if (is_block(tag_before) && text.starts_with('\n')) {
    text.remove_prefix(1);
    starts_a_line = true;
  }
  const std::size_t blank_from = text.find_last_not_of(" \t") + 1;  // 0 where all of it is
  if (tag_after.size() > 4 && tag_after[2] == '-')
    text = text.substr(0, text.find_last_not_of(kSpaces) + 1);
  else if (is_block(tag_after) && (blank_from == 0 ? starts_a_line : text[blank_from - 1] == '\n'))
    text = text.substr(0, blank_from);
  return text;
}

/// The text with what reaches the output of each piece between tags as `text` gives it, and each tag as `tag` does.
template <typename Text, typename Tag>
std::string rewritten(std::string_view jinja, const Text& text, const Tag& tag_as) {
  if (jinja.ends_with('\n')) jinja.remove_suffix(1);  // as Jinja does
  std::string result;
  std::string_view tag_before;
  for (std::size_t at = 0;;) {
    const std::size_t begin = next_tag(jinja, at);
    const std::size_t end = begin == jinja.size() ? begin : end_of_tag(jinja, begin);
    if (end == std::string_view::npos) return std::string(jinja);  // Jinja refuses it
    const std::string_view tag = jinja.substr(begin, end - begin);
    result += text(kept(jinja.substr(at, begin - at), tag_before, tag));
    if (tag.empty()) return result;
    if (!tag.starts_with("{#") && tag.size() >= 4) result += tag_as(tag);
    tag_before = tag;
    at = end;
  }
}

std::string plain_tag(std::string_view tag) {
  std::string_view inside = tag.substr(2, tag.size() - 4);
  if (inside.starts_with('-')) inside.remove_prefix(1);
  if (inside.ends_with('-')) inside.remove_suffix(1);
  return std::string(tag.substr(0, 2)) + Expression(inside).plain() + std::string(tag.substr(tag.size() - 2));
}

}  // namespace

std::string plain_jinja(std::string_view jinja) {
  return rewritten(
      jinja, [](std::string_view text) { return text; }, plain_tag);
}

std::string spelled_out_jinja(std::string_view jinja) {
  const auto spelled_out = [](std::string_view text) {
    return text.empty() ? "" : "{{ \"" + requoted(std::string(text)) + "\" }}";
  };
  return rewritten(jinja, spelled_out, [](std::string_view tag) { return tag; });
}

}  // namespace tune
