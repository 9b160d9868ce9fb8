#include "data/templates/default_system_turn.h"

#include <algorithm>
#include <optional>
#include <vector>

namespace tune {

namespace {

constexpr std::string_view kBegin = "<|im_start|>system", kEnd = "<|im_end|>";

// A text of the template: one in quotes inside {{ }}, or what stands between two tags.
struct Literal {
  std::string text;
  std::string_view statement;  // the {% %} before it
  std::string_view behind;     // what follows a quoted one inside its tag
};

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

std::string_view without_leading_space(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  return text;
}

// As Jinja reads a text in quotes: the escapes of Python.
std::string unescaped(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 1 == text.size()) {
      result += text[i];
      continue;
    }
    const char escape = text[++i];
    result += escape == 'n' ? '\n' : escape == 't' ? '\t' : escape == 'r' ? '\r' : escape;
  }
  return result;
}

std::size_t end_of_quoted(std::string_view text, std::size_t begin) {
  std::size_t end = begin + 1;
  while (end < text.size() && text[end] != text[begin]) end += text[end] == '\\' ? 2 : 1;
  return std::min(end, text.size());
}

// The end of the tag that begins at text[begin], behind its closing braces.
std::size_t end_of_tag(std::string_view text, std::size_t begin) {
  const char closing = text[begin + 1] == '{' ? '}' : text[begin + 1];  // {{ }}, {% %}, {# #}
  for (std::size_t i = begin + 2; i + 1 < text.size(); ++i) {
    if (closing != '#' && (text[i] == '\'' || text[i] == '"')) i = end_of_quoted(text, i);
    if (text.substr(i, 2) == std::string{closing, '}'}) return i + 2;
  }
  return text.size();
}

class Reader {
 public:
  explicit Reader(std::string_view jinja) : jinja_(jinja) {}

  std::vector<Literal> literals() {
    for (std::size_t at = 0; at < jinja_.size();) {
      const std::size_t tag = std::min(next_tag(at), jinja_.size());
      add_plain(at, tag);
      if (tag == jinja_.size()) break;
      at = end_of_tag(jinja_, tag);
      const std::string_view text = jinja_.substr(tag, at - tag);
      if (text.starts_with("{%")) statement_ = text;
      if (text.starts_with("{{")) add_quoted(text);
    }
    return std::move(literals_);
  }

 private:
  std::size_t next_tag(std::size_t from) const {
    return std::min({jinja_.find("{{", from), jinja_.find("{%", from), jinja_.find("{#", from)});
  }

  // transformers renders with trim_blocks and lstrip_blocks; a hyphen in a tag takes all white space beside it.
  void add_plain(std::size_t begin, std::size_t end) {
    std::string_view text = jinja_.substr(begin, end - begin);
    const std::string_view before = jinja_.substr(0, begin), after = jinja_.substr(end);
    if (before.ends_with("-%}") || before.ends_with("-}}"))
      text = without_leading_space(text);
    else if (before.ends_with("%}") && text.starts_with('\n'))
      text.remove_prefix(1);
    if (after.starts_with("{%-") || after.starts_with("{{-"))
      while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
    literals_.push_back({std::string(text), statement_, {}});
  }

  void add_quoted(std::string_view tag) {
    for (std::size_t i = 2; i < tag.size(); ++i) {
      if (tag[i] != '\'' && tag[i] != '"') continue;
      const std::size_t end = end_of_quoted(tag, i);
      const std::string_view behind = end < tag.size() ? tag.substr(end + 1) : std::string_view();
      literals_.push_back({unescaped(tag.substr(i + 1, end - i - 1)), statement_, without_leading_space(behind)});
      i = end;
    }
  }

  std::string_view jinja_;
  std::string_view statement_;
  std::vector<Literal> literals_;
};

bool has(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

// {% if … != 'system' %}, {% if not … %} or {% else %}: no system message is there.
bool says_there_is_none(std::string_view statement) {
  return has(statement, "else") || has(statement, "!=") || has(statement, "not ");
}

// <|im_start|>system and nothing more, before what a message of the conversation or a list of tools says.
bool is_header_of_a_message(const Literal& literal) {
  const std::string_view text = literal.text;
  if (text.substr(kBegin.size()).find_first_not_of('\n') != std::string_view::npos) return false;
  if (has(literal.statement, "tools")) return true;
  if (!literal.behind.starts_with('+')) return false;
  return without_leading_space(literal.behind.substr(1)).starts_with("message");
}

}  // namespace

DefaultSystemTurn default_system_turn(std::string_view jinja) {
  DefaultSystemTurn found;
  bool unclear = false;
  for (const Literal& literal : Reader(jinja).literals()) {
    if (!literal.text.starts_with(kBegin) || is_header_of_a_message(literal)) continue;
    const std::size_t end = literal.text.find(kEnd);
    const bool whole =
        end != std::string::npos && literal.text.find_first_not_of('\n', end + kEnd.size()) == std::string::npos;
    if (whole && says_there_is_none(literal.statement) && (found.text.empty() || found.text == literal.text))
      found.text = literal.text;
    else
      unclear = true;
  }
  if (found.text.empty()) found.unclear = unclear;
  return found;
}

}  // namespace tune
