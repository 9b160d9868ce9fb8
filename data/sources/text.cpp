#include <fmt/format.h>

#include "data/sources/fields.h"
#include "data/sources/lines.h"

namespace tune {

namespace {

class Text final : public FieldReader {
 public:
  Text(const std::string& path, RowLog& log) : path_(path), log_(log) {}

  bool next(Fields& fields, Place& place) override {
    if (read_) return false;
    read_ = true;
    std::string text = read_unpacked(path_, kMaxRowBytes);
    if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
    place = {path_, 1};
    if (is_blank(text)) return false;
    if (const std::size_t bad = find_invalid_utf8(text); bad != std::string_view::npos) {
      log_.refuse(place, Error{Fault::data, place_of_byte(text, bad, place),
                               fmt::format("invalid UTF-8 (byte 0x{:02X})", static_cast<unsigned char>(text[bad])),
                               "convert the file to UTF-8"});
      return false;
    }
    fields = {{"text", FieldKind::text, std::move(text), {}}};
    return true;
  }

 private:
  std::string path_;
  RowLog& log_;
  bool read_ = false;
};

}  // namespace

std::unique_ptr<FieldReader> open_text(const std::string& path, RowLog& log) {
  return std::make_unique<Text>(path, log);
}

}  // namespace tune
