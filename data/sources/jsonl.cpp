#include <fmt/format.h>

#include <optional>
#include <utility>

#include "data/sources/fields.h"
#include "data/sources/json_row.h"
#include "data/sources/lines.h"

namespace tune {

namespace {

class JsonLines final : public FieldReader {
 public:
  JsonLines(const std::string& path, RowLog& log) : lines_(path), log_(log) {}

  bool next(Fields& fields, Place& place) override {
    while (lines_.next(line_)) {
      if (is_blank(line_)) continue;
      place = lines_.place();
      try {
        fields = parser_.parse(line_, place);
        return true;
      } catch (const Error& error) {
        log_.refuse(place, error);
      }
    }
    return false;
  }

 private:
  LineReader lines_;
  RowLog& log_;
  JsonRowParser parser_;
  std::string line_;
};

// A file from a position on that only moves forward; what lies before it is forgotten.
class Window {
 public:
  explicit Window(const std::string& path) : bytes_(open_bytes(path)), place_{path, 1, 1} {
    if (at(2) && std::string_view(text_).starts_with(kByteOrderMark)) begin_ = kByteOrderMark.size();
  }

  // The byte so far behind the position; nothing behind the end.
  std::optional<char> at(std::size_t offset) {
    while (begin_ + offset >= text_.size())
      if (!fill()) return std::nullopt;
    return text_[begin_ + offset];
  }

  std::string_view first(std::size_t count) const { return std::string_view(text_).substr(begin_, count); }

  void move(std::size_t count) {
    place_ = place_of_byte(first(count), count, place_);
    begin_ += count;
  }

  void skip_space() {
    for (std::optional<char> c; (c = at(0)) && is_blank({&*c, 1});) {
      std::size_t count = 1;
      while (begin_ + count < text_.size() && is_blank(std::string_view(text_).substr(begin_ + count, 1))) ++count;
      move(count);
    }
  }

  const Place& place() const { return place_; }

 private:
  bool fill() {
    constexpr std::size_t kPiece = std::size_t{256} << 10;
    if (begin_ > 0) text_.erase(0, std::exchange(begin_, 0));
    const std::size_t length = text_.size();
    text_.resize(length + kPiece);
    const std::size_t count = bytes_->read({text_.data() + length, kPiece});
    text_.resize(length + count);
    return count > 0;
  }

  std::unique_ptr<ByteReader> bytes_;
  std::string text_;
  std::size_t begin_ = 0;
  Place place_;
};

// The length of the JSON value that begins the window, found by its brackets and quotes alone: broken values end
// somewhere, too, and the parser says what is wrong with them.
std::size_t length_of_value(Window& window) {
  std::int64_t depth = 0;
  bool quoted = false;
  std::size_t i = 0;
  for (std::optional<char> c; (c = window.at(i)); ++i) {
    if (i > kMaxRowBytes)
      throw Error{Fault::data, window.place(), fmt::format("the row is longer than {} MiB", kMaxRowBytes >> 20),
                  "cut it into several"};
    if (quoted) {
      if (*c == '\\') ++i;
      if (*c == '"') quoted = false;
    } else if (*c == '"') {
      quoted = true;
    } else if (*c == '{' || *c == '[') {
      ++depth;
    } else if ((*c == '}' || *c == ']' || *c == ',') && depth == 0) {
      return i;
    } else if (*c == '}' || *c == ']') {
      if (--depth == 0) return i + 1;
    }
  }
  return window.first(i).size();
}

// One array of objects over as many lines as it likes.
class JsonArray final : public FieldReader {
 public:
  // The window stands before the array's bracket.
  JsonArray(Window window, RowLog& log) : window_(std::move(window)), log_(log) { window_.move(1); }

  bool next(Fields& fields, Place& place) override {
    while (find_element()) {
      const std::size_t length = length_of_value(window_);
      place = window_.place();
      try {
        fields = parser_.parse(window_.first(length), place);
        window_.move(length);
        place.column = 0;
        return true;
      } catch (const Error& error) {
        log_.refuse(place, error);
        window_.move(length);
      }
    }
    return false;
  }

 private:
  // Moves to the next element, over the comma before it. False behind the last one.
  bool find_element() {
    window_.skip_space();
    const bool first = std::exchange(first_, false);
    if (!window_.at(0))
      throw Error{Fault::data, window_.place(), "the array is not closed", "end it with ], or fetch the file again"};
    if (window_.at(0) == ']') return end_array();
    if (!first && window_.at(0) != ',')
      throw Error{Fault::data, window_.place(), "broken JSON: a comma or ] is missing here", "mend the array"};
    if (!first) {
      window_.move(1);
      window_.skip_space();
    }
    return true;
  }

  bool end_array() {
    window_.move(1);
    window_.skip_space();
    if (!window_.at(0)) return false;
    throw Error{Fault::data, window_.place(), "there is more behind the array",
                "put all rows into one array, or write .jsonl"};
  }

  Window window_;
  RowLog& log_;
  JsonRowParser parser_;
  bool first_ = true;
};

}  // namespace

std::unique_ptr<FieldReader> open_jsonl(const DatasetOptions& options, RowLog& log) {
  return std::make_unique<JsonLines>(options.path, log);
}

std::unique_ptr<FieldReader> open_json(const DatasetOptions& options, RowLog& log) {
  Window window(options.path);
  window.skip_space();
  if (window.at(0) == '[') return std::make_unique<JsonArray>(std::move(window), log);
  return open_jsonl(options, log);
}

}  // namespace tune
