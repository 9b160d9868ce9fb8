#include "data/sources/lines.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "data/tokenizer/utf8.h"
#include "recipes/schema/error.h"

namespace tune {

LineReader::LineReader(const std::filesystem::path& path)
    : path_(path), bytes_(open_bytes(path)), buffer_(std::size_t{256} << 10, '\0') {
  while (end_ < kByteOrderMark.size()) {
    const std::size_t count = bytes_->read({buffer_.data() + end_, buffer_.size() - end_});
    if (count == 0) break;
    end_ += count;
  }
  if (std::string_view(buffer_.data(), end_).starts_with(kByteOrderMark)) begin_ = kByteOrderMark.size();
}

bool LineReader::fill() {
  begin_ = 0;
  end_ = bytes_->read(buffer_);
  return end_ > 0;
}

bool LineReader::next(std::string& line) {
  line.clear();
  if (begin_ == end_ && !fill()) return false;
  ++number_;
  do {
    const char* rest = buffer_.data() + begin_;
    const auto* newline = static_cast<const char*>(std::memchr(rest, '\n', end_ - begin_));
    line.append(rest, newline != nullptr ? newline : buffer_.data() + end_);
    if (line.size() > kMaxRowBytes)
      throw Error{Fault::data, place(), fmt::format("the line is longer than {} MiB", kMaxRowBytes >> 20),
                  "write one row a line"};
    if (newline != nullptr) {
      begin_ = static_cast<std::size_t>(newline - buffer_.data()) + 1;
      return true;
    }
  } while (fill());
  begin_ = end_;
  return true;
}

std::size_t find_invalid_utf8(std::string_view text) {
  if (is_utf8(text)) return std::string_view::npos;
  std::size_t i = 0;
  while (const std::size_t length = utf8_length(text, i)) i += length;
  return i;
}

Place place_of_byte(std::string_view text, std::size_t offset, const Place& begin) {
  text = text.substr(0, offset);
  Place place = begin;
  place.line += std::count(text.begin(), text.end(), '\n');
  const std::size_t newline = text.rfind('\n');
  const std::string_view line = newline == std::string_view::npos ? text : text.substr(newline + 1);
  const std::int64_t first_column = newline == std::string_view::npos ? std::max<std::int64_t>(begin.column, 1) : 1;
  place.column = first_column + std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xC0) != 0x80; });
  return place;
}

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r\n") == std::string_view::npos; }

}  // namespace tune
