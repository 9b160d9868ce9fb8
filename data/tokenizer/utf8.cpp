#include "data/tokenizer/utf8.h"

#include <cstdint>

namespace tune {

namespace {

struct Prefix {
  std::size_t length = 0;  // of the longest beginning of a character
  bool whole = false;
};

// Table 3-7 of the Unicode standard: only the second byte has special bounds.
Prefix longest_prefix(std::string_view text, std::size_t i) {
  const auto at = [&](std::size_t k) { return static_cast<std::uint8_t>(text[k]); };
  const std::uint8_t lead = at(i);
  if (lead < 0x80) return {1, true};
  const std::size_t length = lead >= 0xC2 && lead <= 0xDF   ? 2
                             : lead >= 0xE0 && lead <= 0xEF ? 3
                             : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                            : 0;
  if (length == 0) return {1, false};
  std::uint8_t low = 0x80, high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (std::size_t k = 1; k < length; ++k) {
    if (i + k >= text.size() || at(i + k) < low || at(i + k) > high) return {k, false};
    low = 0x80;
    high = 0xBF;
  }
  return {length, true};
}

bool is_python_space(char32_t c) { return is_space(c) || (c >= 0x1C && c <= 0x1F); }

}  // namespace

std::size_t utf8_length(std::string_view text, std::size_t i) {
  if (i >= text.size()) return 0;
  const Prefix prefix = longest_prefix(text, i);
  return prefix.whole ? prefix.length : 0;
}

bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_length(text, i);
    if (length == 0) return false;
    i += length;
  }
  return true;
}

std::string utf8_lossy(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  for (std::size_t i = 0; i < bytes.size();) {
    const Prefix prefix = longest_prefix(bytes, i);
    text += prefix.whole ? bytes.substr(i, prefix.length) : std::string_view("\xEF\xBF\xBD");
    i += prefix.length;
  }
  return text;
}

char32_t utf8_code_point(std::string_view text, std::size_t i) {
  const std::size_t length = utf8_length(text, i);
  const auto byte = [&](std::size_t k) { return static_cast<char32_t>(static_cast<std::uint8_t>(text[i + k])); };
  if (length <= 1) return length == 0 ? 0xFFFD : byte(0);
  char32_t code_point = byte(0) & (0x7Fu >> length);
  for (std::size_t k = 1; k < length; ++k) code_point = code_point << 6 | (byte(k) & 0x3F);
  return code_point;
}

std::string utf8_encode(char32_t c) {
  std::string text;
  const auto put = [&](char32_t byte) { text += static_cast<char>(byte); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
  return text;
}

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

std::string_view strip(std::string_view text) {
  while (!text.empty() && is_python_space(utf8_code_point(text, 0))) text.remove_prefix(utf8_length(text, 0));
  while (!text.empty()) {
    std::size_t start = text.size() - 1;
    while (start > 0 && (static_cast<std::uint8_t>(text[start]) & 0xC0) == 0x80) --start;
    if (!is_python_space(utf8_code_point(text, start))) break;
    text.remove_suffix(text.size() - start);
  }
  return text;
}

}  // namespace tune
