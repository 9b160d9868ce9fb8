#include <fmt/format.h>

#include "data/sources/fields.h"
#include "data/sources/lines.h"

namespace tune {

namespace {

// RFC 4180: a header, commas, fields in double quotes may hold commas, line ends and "" for a quote.
class Csv final : public FieldReader {
 public:
  Csv(const std::string& path, RowLog& log) : lines_(path), log_(log) {
    Place place;
    try {
      if (!next_row(header_, place)) return;
    } catch (const Error& error) {
      throw Error{Fault::data, place, error.what()};
    }
  }

  bool next(Fields& fields, Place& place) override {
    for (;;) {
      try {
        std::vector<std::string> values;
        if (!next_row(values, place)) return false;
        if (values.size() != header_.size())
          throw Error{Fault::data, Place{},
                      fmt::format("the row has {} fields, the header {}", values.size(), header_.size()),
                      "put fields with commas or line ends in double quotes"};
        fields.clear();
        for (std::size_t i = 0; i < values.size(); ++i)
          fields.push_back({header_[i], FieldKind::text, std::move(values[i]), {}});
        return true;
      } catch (const Error& error) {
        if (!error.place().file.empty()) throw;  // the file itself
        log_.refuse(place, error);
      }
    }
  }

 private:
  // Appends the next line to text_, behind what is there. False at the end of the file.
  bool append_line() {
    if (!lines_.next(line_)) return false;
    text_ += line_;
    return true;
  }

  bool next_row(std::vector<std::string>& values, Place& place) {
    do {
      text_.clear();
      if (!append_line()) return false;
    } while (is_blank(text_));
    place = lines_.place();
    std::size_t position = 0;
    bool more = true;
    while (more) {
      values.push_back(position < text_.size() && text_[position] == '"' ? quoted(position) : bare(position));
      more = position < text_.size() && text_[position] == ',';
      ++position;
    }
    if (const std::size_t bad = find_invalid_utf8(text_); bad != std::string_view::npos) {
      place = place_of_byte(text_, bad, place);
      throw Error{Fault::data, Place{},
                  fmt::format("invalid UTF-8 (byte 0x{:02X})", static_cast<unsigned char>(text_[bad])),
                  "convert the file to UTF-8"};
    }
    return true;
  }

  std::string bare(std::size_t& position) {
    const std::size_t end = std::min(text_.find(',', position), text_.size());
    std::string value = text_.substr(position, end - position);
    if (end == text_.size() && value.ends_with('\r')) value.pop_back();
    position = end;
    return value;
  }

  std::string quoted(std::size_t& position) {
    std::string value;
    for (++position;; ++position) {
      if (position == text_.size()) {  // the field goes on in the next line
        text_ += '\n';
        if (text_.size() > kMaxRowBytes || !append_line())
          throw Error{Fault::data, Place{}, "a double quote is opened in this row and never closed", "close it"};
      }
      if (text_[position] == '"') {
        if (position + 1 == text_.size() || text_[position + 1] != '"') break;
        ++position;
      }
      value += text_[position];
    }
    ++position;
    if (position + 1 == text_.size() && text_[position] == '\r') position = text_.size();
    if (position < text_.size() && text_[position] != ',')
      throw Error{Fault::data, Place{}, "there is text behind a closing quote", "write a quote inside a field as \"\""};
    return value;
  }

  LineReader lines_;
  RowLog& log_;
  std::vector<std::string> header_;
  std::string line_, text_;  // text_: the row so far
};

}  // namespace

std::unique_ptr<FieldReader> open_csv(const DatasetOptions& options, RowLog& log) {
  return std::make_unique<Csv>(options.path, log);
}

}  // namespace tune
