#include "data/tokenizer/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>

#include "recipes/schema/error.h"

namespace tune {

namespace {

// PCRE2's own \s has U+180E, too, which Unicode took out of White_Space.
constexpr std::string_view kSpaces =
    R"(\x09-\x0d\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

std::string with_unicode_spaces(std::string_view expression) {
  std::string result;
  bool in_class = false;
  for (std::size_t i = 0; i < expression.size(); ++i) {
    const char c = expression[i];
    if (c == '\\' && i + 1 < expression.size()) {
      const char next = expression[++i];
      if (next == 's') {
        result += in_class ? std::string(kSpaces) : fmt::format("[{}]", kSpaces);
      } else if (next == 'S' && !in_class) {
        result += fmt::format("[^{}]", kSpaces);
      } else {
        result += {c, next};
      }
      continue;
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    result += c;
  }
  return result;
}

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeMatch {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

pcre2_match_data* match_data() {
  static thread_local const std::unique_ptr<pcre2_match_data, FreeMatch> data(pcre2_match_data_create(16, nullptr));
  return data.get();
}

}  // namespace

struct PreTokenizer::Expression {
  std::unique_ptr<pcre2_code, FreeCode> code;

  void split(std::string_view text, pcre2_match_data* match, std::vector<std::string_view>& words) const {
    std::size_t at = 0;  // everything before it is in words
    for (std::size_t from = 0; from < text.size();) {
      const int found =
          pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from, 0, match, nullptr);
      if (found == PCRE2_ERROR_NOMATCH) break;
      TUNE_CHECK(found > 0, "PCRE2 gives up with error {} in a text of {} bytes", found, text.size());
      const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match);
      if (bounds[1] == bounds[0]) {  // nothing found there; look behind it
        from = bounds[1] + 1;
        continue;
      }
      if (bounds[0] > at) words.push_back(text.substr(at, bounds[0] - at));
      words.push_back(text.substr(bounds[0], bounds[1] - bounds[0]));
      at = from = bounds[1];
    }
    if (at < text.size()) words.push_back(text.substr(at));
  }
};

PreTokenizer::PreTokenizer(const std::vector<std::string>& expressions, const std::string& name) {
  for (const std::string& expression : expressions) {
    const std::string translated = with_unicode_spaces(expression);
    int error = 0;
    PCRE2_SIZE offset = 0;
    pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                     PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF | PCRE2_NEVER_BACKSLASH_C, &error,
                                     &offset, nullptr);
    if (code == nullptr) {
      throw Error{
          Fault::data, Place{name},
          fmt::format("the pre-tokenizer's expression \"{}\" isn't understood at character {}", expression, offset),
          "use the tokenizer.json as it was published with the model"};
    }
    expressions_.push_back({std::unique_ptr<pcre2_code, FreeCode>(code)});
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where there is no JIT the interpreter does the same
  }
}

bool PreTokenizer::finds(std::string_view text) const {
  return std::any_of(expressions_.begin(), expressions_.end(), [&](const Expression& expression) {
    return pcre2_match(expression.code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0, 0,
                       match_data(), nullptr) > 0;
  });
}

PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;

std::vector<std::string_view> PreTokenizer::split(std::string_view text) const {
  std::vector<std::string_view> words{text};
  for (const Expression& expression : expressions_) {
    std::vector<std::string_view> next;
    next.reserve(words.size());
    for (const std::string_view word : words) expression.split(word, match_data(), next);
    words = std::move(next);
  }
  return words;
}

bool is_word_character(std::string_view character) {
  // PCRE2's \w lacks the marks, the joiners and the letters in circles that Unicode's has.
  static const PreTokenizer words(
      {R"([\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189}])"},
      "");
  return words.finds(character);
}

}  // namespace tune
