#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace tune {

inline constexpr std::string_view kEscapedSpace = "\xE2\x96\x81";  // U+2581, how SentencePiece spells a space

/// "<0x0A>" -> 10; nothing for any other token.
std::optional<std::uint8_t> byte_of_piece(std::string_view token);

/// 10 -> "<0x0A>".
std::string piece_of_byte(std::uint8_t byte);

/// SentencePiece-like tokens to text: escaped spaces, runs of byte pieces (a run that isn't UTF-8 gives U+FFFD for each
/// byte, as `tokenizers` does), one leading space dropped where there was a dummy prefix.
std::string decode_pieces(std::span<const std::string> tokens, bool drop_leading_space);

}  // namespace tune
