#include "recipes/schema/document.h"

#include <fmt/format.h>
#include <yaml-cpp/anchor.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <map>
#include <sstream>

namespace tune {
namespace {

constexpr std::size_t kLargestFile = 1024 * 1024;
constexpr std::size_t kLongestScalar = 64 * 1024;
constexpr std::size_t kDeepest = 32;
constexpr std::size_t kMostEntries = 1000;  // of one section or list

// Bytes of the character that starts at text[i], 0 where it is no well-formed UTF-8 (Unicode 15, table 3-7).
std::size_t utf8_length(std::string_view text, std::size_t i) {
  const auto byte = [&](std::size_t k) { return i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0U; };
  const unsigned first = byte(0);
  const std::size_t length = first < 0x80   ? 1
                             : first < 0xC2 ? 0
                             : first < 0xE0 ? 2
                             : first < 0xF0 ? 3
                             : first < 0xF5 ? 4
                                            : 0;
  for (std::size_t k = 1; k < length; ++k)
    if ((byte(k) & 0xC0) != 0x80) return 0;
  const unsigned second = byte(1);
  if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F)) return 0;
  if ((first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F)) return 0;
  return length;
}

bool is_text(std::string_view text, const std::string& file, Problems& problems) {
  Place place{file, 1, 1};
  for (std::size_t i = 0; i < text.size();) {
    const unsigned char c = static_cast<unsigned char>(text[i]);
    const std::size_t length = utf8_length(text, i);
    if (length == 0) {
      problems.add(place, fmt::format("byte 0x{:02x} is no valid UTF-8", c), "save the recipe as UTF-8");
      return false;
    }
    if ((c < 0x20 && c != '\n' && c != '\r' && c != '\t') || c == 0x7F) {
      problems.add(place, fmt::format("control character 0x{:02x}", c), "remove it");
      return false;
    }
    i += length;
    place.column += 1;
    if (c == '\n') place = {file, place.line + 1, 1};
  }
  return true;
}

// Ends the parsing: nothing behind it is looked at, and the library's recursion never gets deep.
struct Refusal {
  Place place;
  std::string what, remedy;
};

// Builds the tree from the library's events. Events, not its node graph: anchors, tags and places are visible here, and
// an alias is seen before it is expanded.
class Builder : public YAML::EventHandler {
 public:
  Builder(const std::string& file, Problems& problems) : file_(file), problems_(problems) {}

  YamlValue take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_extras(mark, anchor, "");
    put({.place = place(mark)});
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    problems_.add(place(mark), "YAML aliases (*name) are not part of recipes", "write the value out");
    put({.place = place(mark)});
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& text) override {
    refuse_extras(mark, anchor, tag);
    if (text.size() > kLongestScalar)
      problems_.add(place(mark), fmt::format("a value of {} bytes", text.size()),
                    fmt::format("the longest is {}", kLongestScalar));
    put({.kind = YamlValue::Kind::scalar, .text = text, .quoted = tag == "!", .place = place(mark)});
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, YamlValue::Kind::list);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, YamlValue::Kind::map);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Level {
    YamlValue value;
    std::optional<YamlEntry> key;                     // of a map: the key that waits for its value
    std::map<std::string, std::int64_t> first_lines;  // of a map: where each key was first given
  };

  Place place(const YAML::Mark& mark) const {
    return {file_, static_cast<std::int64_t>(mark.line) + 1, static_cast<std::int64_t>(mark.column) + 1};
  }

  void refuse_extras(const YAML::Mark& mark, YAML::anchor_t anchor, const std::string& tag) {
    if (anchor != YAML::NullAnchor)
      problems_.add(place(mark), "YAML anchors (&name) are not part of recipes", "remove it");
    if (!tag.empty() && tag != "?" && tag != "!")  // the library's own marks of plain and of quoted
      problems_.add(place(mark), "YAML tags (!name) are not part of recipes", "remove it");
  }

  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YamlValue::Kind kind) {
    if (levels_.size() == kDeepest)
      throw Refusal{place(mark), fmt::format("more than {} levels of nesting", kDeepest), "a recipe needs five"};
    refuse_extras(mark, anchor, tag);
    levels_.push_back({{.kind = kind, .place = place(mark)}, {}, {}});
  }

  void close() {
    YamlValue value = std::move(levels_.back().value);
    levels_.pop_back();
    put(std::move(value));
  }

  void put(YamlValue value) {
    if (levels_.empty()) {
      root_ = std::move(value);
      return;
    }
    Level& level = levels_.back();
    if (level.value.items.size() == kMostEntries || level.first_lines.size() == kMostEntries)
      throw Refusal{value.place, fmt::format("more than {} entries in one section", kMostEntries),
                    "a recipe needs fifty"};
    if (level.value.kind == YamlValue::Kind::list) {
      level.value.items.push_back(std::move(value));
    } else if (!level.key) {
      if (value.kind != YamlValue::Kind::scalar)
        problems_.add(value.place, fmt::format("a key is {}", describe(value)), "keys are words");
      level.key = YamlEntry{value.text, value.place, {}};
    } else {
      level.key->value = std::move(value);
      add_entry(level, std::move(*level.key));
      level.key.reset();
    }
  }

  void add_entry(Level& level, YamlEntry entry) {
    const auto [first, is_new] = level.first_lines.try_emplace(entry.name, entry.place.line);
    if (is_new)
      level.value.entries.push_back(std::move(entry));
    else
      problems_.add(entry.place,
                    fmt::format("{} is given twice, first on line {}", in_quotes(entry.name), first->second),
                    "keep one of them");
  }

  const std::string& file_;
  Problems& problems_;
  std::vector<Level> levels_;
  YamlValue root_;
};

}  // namespace

std::string describe(const YamlValue& value) {
  switch (value.kind) {
    case YamlValue::Kind::null:
      return "empty";
    case YamlValue::Kind::list:
      return "a list";
    case YamlValue::Kind::map:
      return "a section";
    case YamlValue::Kind::scalar:
      break;
  }
  return in_quotes(value.text);
}

std::optional<YamlValue> parse_document(std::string_view text, const std::string& file, Problems& problems) {
  if (text.size() > kLargestFile) {
    problems.add({file}, fmt::format("{} bytes are no recipe", text.size()),
                 fmt::format("the largest is {}", kLargestFile));
    return std::nullopt;
  }
  if (!is_text(text, file, problems)) return std::nullopt;

  std::istringstream stream{std::string(text)};
  Builder builder(file, problems);
  try {
    YAML::Parser parser(stream);
    parser.HandleNextDocument(builder);
    YamlValue root = builder.take();
    if (parser) problems.add({file}, "more than one YAML document", "keep what stands before the second ---");
    return root;
  } catch (const Refusal& refusal) {
    problems.add(refusal.place, refusal.what, refusal.remedy);
  } catch (const YAML::Exception& error) {
    Place place{file};
    if (!error.mark.is_null()) place = {file, error.mark.line + 1, error.mark.column + 1};
    problems.add(place, fmt::format("this is not YAML: {}", error.msg),
                 "check brackets and indentation; put text with : ? # , [ ] { } in quotes");
  }
  return std::nullopt;
}

}  // namespace tune
