#include <fmt/format.h>

#include "data/sources/fields.h"
#include "data/sources/lines.h"
#include "data/sources/stretches.h"

namespace tune {

namespace {

// The file is one row whose text comes in parts, so that no more of it than a few stretches is held.
class Text final : public FieldReader {
 public:
  Text(const std::string& path, RowLog& log) : bytes_(open_bytes(path)), place_{path, 1, 1}, log_(log) {
    fill();
    if (text_.starts_with(kByteOrderMark)) text_.erase(0, kByteOrderMark.size());
    if (at_end_ && is_blank(text_)) text_.clear();
  }

  bool next(Fields& fields, Place& place) override {
    fill();
    const std::string_view rest = std::string_view(text_).substr(begin_);
    if (rest.empty()) return false;
    const std::string_view part = rest.substr(0, stretch_end(rest, !at_end_));
    place = {place_.file, 1};
    if (const std::size_t bad = find_invalid_utf8(part); bad != std::string_view::npos) {
      refuse(part, bad);
      return false;
    }
    const bool last = part.size() == rest.size() && at_end_;
    fields = {{"text", FieldKind::text, std::string(part), {}, text_part(first_, last)}};
    place_ = place_of_byte(part, part.size(), place_);
    begin_ += part.size();
    first_ = false;
    return true;
  }

 private:
  // Until stretch_end has enough to look at.
  void fill() {
    constexpr std::size_t kWanted = 2 * kLongestStretchBytes;
    if (at_end_ || text_.size() - begin_ > kLongestStretchBytes) return;
    text_.erase(0, begin_);
    begin_ = 0;
    while (!at_end_ && text_.size() < kWanted) {
      const std::size_t length = text_.size();
      text_.resize(kWanted);
      const std::size_t count = bytes_->read({text_.data() + length, kWanted - length});
      text_.resize(length + count);
      at_end_ = count == 0;
    }
  }

  void refuse(std::string_view part, std::size_t bad) {
    log_.refuse(place_, Error{Fault::data, place_of_byte(part, bad, place_),
                              fmt::format("invalid UTF-8 (byte 0x{:02X})", static_cast<unsigned char>(part[bad])),
                              "convert the file to UTF-8"});
    text_.clear();
    begin_ = 0;
    at_end_ = true;
  }

  std::unique_ptr<ByteReader> bytes_;
  std::string text_;
  std::size_t begin_ = 0;  // what lies before it is handed out
  bool at_end_ = false, first_ = true;
  Place place_;  // of begin_
  RowLog& log_;
};

}  // namespace

std::unique_ptr<FieldReader> open_text(const DatasetOptions& options, RowLog& log) {
  return std::make_unique<Text>(options.path, log);
}

}  // namespace tune
