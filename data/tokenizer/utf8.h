#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace tune {

/// Length in bytes of the valid UTF-8 character that begins at text[i]; 0 where there is none.
std::size_t utf8_length(std::string_view text, std::size_t i);

bool is_utf8(std::string_view text);

/// Broken sequences become U+FFFD, one for each longest beginning of a character (as Rust and Python do).
std::string utf8_lossy(std::string_view bytes);

/// The code point of the valid UTF-8 character at text[i].
char32_t utf8_code_point(std::string_view text, std::size_t i);

std::string utf8_encode(char32_t code_point);

/// Unicode's White_Space property.
bool is_space(char32_t code_point);

/// What Python's str.strip() does: White_Space and the separators U+001C to U+001F go from both ends.
std::string_view strip(std::string_view text);

}  // namespace tune
