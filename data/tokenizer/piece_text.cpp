#include "data/tokenizer/piece_text.h"

#include <fmt/format.h>

#include "data/tokenizer/utf8.h"

namespace tune {

namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

void append_run(std::string& text, std::string& run) {
  if (is_utf8(run)) {
    text += run;
  } else {
    for (std::size_t i = 0; i < run.size(); ++i) text += "\xEF\xBF\xBD";
  }
  run.clear();
}

void append_unescaped(std::string& text, std::string_view token) {
  for (std::size_t i = 0; i < token.size();) {
    const bool space = token.substr(i).starts_with(kEscapedSpace);
    text += space ? ' ' : token[i];
    i += space ? kEscapedSpace.size() : 1;
  }
}

}  // namespace

std::optional<std::uint8_t> byte_of_piece(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  const int high = hex_digit(token[3]), low = hex_digit(token[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<std::uint8_t>(high * 16 + low);
}

std::string piece_of_byte(std::uint8_t byte) { return fmt::format("<0x{:02X}>", byte); }

std::string decode_pieces(std::span<const std::string> tokens, bool drop_leading_space) {
  std::string text, run;
  for (const std::string& token : tokens) {
    if (const auto byte = byte_of_piece(token)) {
      run += static_cast<char>(*byte);
      continue;
    }
    append_run(text, run);
    append_unescaped(text, token);
  }
  append_run(text, run);
  if (drop_leading_space && text.starts_with(' ')) text.erase(0, 1);
  return utf8_lossy(text);
}

}  // namespace tune
