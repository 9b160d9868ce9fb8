#include <fmt/format.h>

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

// The end of the JSON value that begins at text[begin], found by its brackets and quotes alone: broken values end
// somewhere, too, and the parser says what is wrong with them.
std::size_t end_of_value(std::string_view text, std::size_t begin) {
  std::int64_t depth = 0;
  bool quoted = false;
  for (std::size_t i = begin; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if ((c == '}' || c == ']' || c == ',') && depth == 0) {
      return i;
    } else if (c == '}' || c == ']') {
      if (--depth == 0) return i + 1;
    }
  }
  return text.size();
}

// One array of objects over as many lines as it likes.
class JsonArray final : public FieldReader {
 public:
  JsonArray(const std::string& path, std::string text, std::size_t begin, RowLog& log)
      : text_(std::move(text)), position_(begin + 1), place_(place_of_byte(text_, begin + 1, {path, 1})), log_(log) {}

  bool next(Fields& fields, Place& place) override {
    while (find_element()) {
      const std::size_t end = end_of_value(text_, position_);
      const std::string_view element(text_.data() + position_, end - position_);
      place = place_;
      move_to(end);
      try {
        fields = parser_.parse(element, place);
        place.column = 0;
        return true;
      } catch (const Error& error) {
        log_.refuse(place, error);
      }
    }
    return false;
  }

 private:
  void move_to(std::size_t position) {
    const std::string_view passed(text_.data() + position_, position - position_);
    place_ = place_of_byte(passed, passed.size(), place_);
    position_ = position;
  }

  void skip_space() {
    const std::size_t found = text_.find_first_not_of(" \t\r\n", position_);
    move_to(found == std::string::npos ? text_.size() : found);
  }

  // Moves to the next element, over the comma before it. False behind the last one.
  bool find_element() {
    skip_space();
    const char wanted = first_ ? '\0' : ',';
    first_ = false;
    if (position_ == text_.size())
      throw Error{Fault::data, place_, "the array is not closed", "end it with ], or fetch the file again"};
    if (text_[position_] == ']') return end_array();
    if (wanted == ',' && text_[position_] != ',')
      throw Error{Fault::data, place_, "broken JSON: a comma or ] is missing here", "mend the array"};
    if (wanted == ',') {
      move_to(position_ + 1);
      skip_space();
    }
    return true;
  }

  bool end_array() {
    const std::size_t behind = text_.find_first_not_of(" \t\r\n", position_ + 1);
    if (behind == std::string::npos) return false;
    move_to(behind);
    throw Error{Fault::data, place_, "there is more behind the array", "put all rows into one array, or write .jsonl"};
  }

  std::string text_;
  std::size_t position_;
  Place place_;  // of position_
  RowLog& log_;
  JsonRowParser parser_;
  bool first_ = true;
};

}  // namespace

std::unique_ptr<FieldReader> open_jsonl(const std::string& path, RowLog& log) {
  return std::make_unique<JsonLines>(path, log);
}

std::unique_ptr<FieldReader> open_json(const std::string& path, RowLog& log) {
  constexpr std::size_t kMaxFileBytes = std::size_t{4} << 30;
  std::string text = read_unpacked(path, kMaxFileBytes);
  if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
  const std::size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin != std::string::npos && text[begin] == '[')
    return std::make_unique<JsonArray>(path, std::move(text), begin, log);
  return open_jsonl(path, log);
}

}  // namespace tune
