#pragma once
#include <cstddef>
#include <string_view>

namespace tune {

/// Long texts are tokenised in stretches of about this length, on all cores.
inline constexpr std::size_t kStretchBytes = std::size_t{64} << 10;

/// A stretch without a place to cut it goes on up to here, and is cut between two characters then.
inline constexpr std::size_t kLongestStretchBytes = std::size_t{1} << 20;

/// Where the first stretch of `text` ends: the last place up to kStretchBytes, or else the first one behind it, where
/// no token crosses, so that the stretches' ids are the ids of the whole. Such places are
///   before a space that follows something that is no white space, and
///   behind a line feed that stands alone between two characters that are no white space.
/// No piece of SentencePiece's holds a space behind another character unless it was trained to, and the expressions of
/// byte-level BPE (GPT-2's, Llama 3's and their kin) begin a word at either place. What remains is never blank.
/// more_follows: the text goes on behind what is given, which is at least kLongestStretchBytes then.
std::size_t stretch_end(std::string_view text, bool more_follows);

}  // namespace tune
