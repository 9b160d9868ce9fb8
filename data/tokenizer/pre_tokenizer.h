#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tune {

/// GPT-2's words: contractions, letters, digits, other signs, each with the space before it; then white space.
inline constexpr std::string_view kGpt2Words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kEachDigit = R"(\p{N})";
inline constexpr std::string_view kDigitRuns = R"(\p{N}+)";

/// Cuts text into words by regular expressions, one after the other: what an expression finds becomes words of its own,
/// and so does what lies between. Unicode throughout; \s is Unicode's White_Space, as in `tokenizers`. Thread-safe.
class PreTokenizer {
 public:
  /// Error{Fault::data} for an expression that isn't one. name: the file it stands in.
  PreTokenizer(const std::vector<std::string>& expressions, const std::string& name);
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;

  /// The words in order; joined they are the text.
  std::vector<std::string_view> split(std::string_view text) const;

  /// Whether any of the expressions finds something in the text.
  bool finds(std::string_view text) const;

 private:
  struct Expression;
  std::vector<Expression> expressions_;
};

/// Whether a character is one of \w of Unicode (letters, marks, digits, connectors). character: one, as UTF-8.
bool is_word_character(std::string_view character);

}  // namespace tune
