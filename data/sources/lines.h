#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "data/sources/decompress.h"
#include "recipes/schema/place.h"

namespace tune {

/// Longest line, CSV row or element of a JSON array that is read: a bound on memory, far above any row.
inline constexpr std::size_t kMaxRowBytes = std::size_t{256} << 20;

/// The lines of a file, unpacked. A byte order mark in front is skipped; '\n' ends a line, a '\r' before it stays.
class LineReader {
 public:
  explicit LineReader(const std::filesystem::path& path);

  /// False at the end. Error{Fault::data} for a line longer than kMaxRowBytes.
  bool next(std::string& line);

  Place place() const { return {path_.string(), number_}; }  // of the line that next() gave last, from 1

 private:
  bool fill();

  std::filesystem::path path_;
  std::unique_ptr<ByteReader> bytes_;
  std::string buffer_;
  std::size_t begin_ = 0, end_ = 0;
  std::int64_t number_ = 0;
};

inline constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

/// Offset of the first byte that is no UTF-8; npos where there is none.
std::size_t find_invalid_utf8(std::string_view text);

/// Where byte `offset` of `text` is, in lines and characters, when the text begins at line begin.line, column 1 (or
/// begin.column). Columns count characters.
Place place_of_byte(std::string_view text, std::size_t offset, const Place& begin);

/// Nothing but spaces, tabs and line ends.
bool is_blank(std::string_view line);

}  // namespace tune
