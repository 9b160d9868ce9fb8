#include "data/sources/json_row.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/sources/lines.h"

namespace tune {

namespace dom = simdjson::dom;

namespace {

constexpr std::size_t kMaxDepth = 64;

std::string_view utf8_text(dom::element element) {
  const std::string_view text = element.get_string().value_unsafe();
  // simdjson lets an escaped lone surrogate through
  if (find_invalid_utf8(text) != std::string_view::npos)
    throw Error{Fault::data, Place{}, "a \\u escape is half of a surrogate pair", "write both halves or the character"};
  return text;
}

Fields fields_of(dom::object object, bool with_lists);

Field field_of(std::string_view name, dom::element value, bool with_lists) {
  Field field{std::string(name), FieldKind::other, {}, {}};
  if (value.is_string()) {
    field.kind = FieldKind::text;
    field.text = utf8_text(value);
  } else if (bool truth = false; value.get_bool().get(truth) == simdjson::SUCCESS) {
    field.kind = FieldKind::boolean;
    field.text = truth ? "true" : "false";
  } else if (value.is_null()) {
    field.kind = FieldKind::nothing;
  } else if (dom::array array; value.get_array().get(array) == simdjson::SUCCESS) {
    field.kind = FieldKind::list;
    if (!with_lists) return field;
    for (const dom::element item : array) {
      dom::object object;
      field.items.push_back(item.get_object().get(object) == simdjson::SUCCESS ? fields_of(object, false) : Fields{});
    }
  }
  return field;
}

Fields fields_of(dom::object object, bool with_lists) {
  Fields fields;
  for (const auto [name, value] : object) fields.push_back(field_of(name, value, with_lists));
  return fields;
}

// "parse error … - unexpected end of input; last read: '…'; expected …" -> "unexpected end of input, expected …"
std::string reason_of(const nlohmann::json::parse_error& error) {
  std::string text = error.what();
  if (const std::size_t dash = text.find(" - "); dash != std::string::npos) text = text.substr(dash + 3);
  const std::size_t expected = text.rfind("; expected");
  const std::string reason = text.substr(0, text.find("; "));
  return expected == std::string::npos ? reason : reason + "," + text.substr(expected + 1);
}

bool is_json_number(std::string_view text) {
  const auto skip = [&](std::string_view characters) {
    const std::size_t count = std::min(text.find_first_not_of(characters), text.size());
    text.remove_prefix(count);
    return count;
  };
  constexpr std::string_view kDigits = "0123456789";
  if (text.starts_with('-')) text.remove_prefix(1);
  const bool leading_zero = text.starts_with('0');
  const std::size_t whole = skip(kDigits);
  if (whole == 0 || (leading_zero && whole > 1)) return false;
  if (text.starts_with('.')) {
    text.remove_prefix(1);
    if (skip(kDigits) == 0) return false;
  }
  if (text.empty() || (text[0] != 'e' && text[0] != 'E')) return text.empty();
  text.remove_prefix(1);
  if (text.starts_with('+') || text.starts_with('-')) text.remove_prefix(1);
  return skip(kDigits) > 0 && text.empty();
}

// JSON sets no bounds to numbers, parsers do; and nothing that we read is a number. So each one becomes a 0 in the
// place where it stands. What is no number stays as it is.
std::string without_numbers(std::string text) {
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"') quoted = !quoted;
    if (quoted && text[i] == '\\') ++i;
    if (quoted || text[i] == '"') continue;
    const std::size_t length = std::min(text.find_first_not_of("+-.0123456789Ee", i), text.size()) - i;
    if (length == 0) continue;
    if (is_json_number(std::string_view(text).substr(i, length)))
      text.replace(i, length, "0" + std::string(length - 1, ' '));
    i += length - 1;
  }
  return text;
}

// simdjson says only that something is wrong, so a slower parser looks for the place.
[[noreturn]] void throw_broken(std::string_view text, const Place& begin, const char* reason) {
  if (const std::size_t bad = find_invalid_utf8(text); bad != std::string_view::npos)
    throw Error{Fault::data, place_of_byte(text, bad, begin),
                fmt::format("invalid UTF-8 (byte 0x{:02X})", static_cast<unsigned char>(text[bad])),
                "convert the file to UTF-8"};
  const char* remedy = "mend the row or leave it out";
  try {
    const auto discard_all = [](int, nlohmann::json::parse_event_t, const nlohmann::json&) { return false; };
    const nlohmann::json nothing = nlohmann::json::parse(text, discard_all);
  } catch (const nlohmann::json::parse_error& error) {
    const std::size_t offset = std::min(error.byte == 0 ? 0 : error.byte - 1, text.size());
    throw Error{Fault::data, place_of_byte(text, offset, begin), "broken JSON: " + reason_of(error), remedy};
  }
  throw Error{Fault::data, begin, fmt::format("broken JSON: {}", reason), remedy};
}

}  // namespace

struct JsonRowParser::Parser {
  dom::parser dom;
};

JsonRowParser::JsonRowParser() : parser_(std::make_unique<Parser>()) {
  constexpr std::size_t kFirstCapacity = 64 << 10;  // grows with the longest row
  TUNE_CHECK(parser_->dom.allocate(kFirstCapacity, kMaxDepth) == simdjson::SUCCESS, "simdjson can't start");
}

JsonRowParser::~JsonRowParser() = default;

Fields JsonRowParser::parse(std::string_view text, const Place& begin) {
  dom::element element;
  simdjson::error_code code = parser_->dom.parse(text.data(), text.size()).get(element);
  std::string numberless;
  if (code == simdjson::NUMBER_ERROR) {
    numberless = without_numbers(std::string(text));
    text = numberless;
    code = parser_->dom.parse(numberless).get(element);
  }
  if (code == simdjson::DEPTH_ERROR)
    throw Error{Fault::data, begin, fmt::format("the row is nested deeper than {} levels", kMaxDepth), "flatten it"};
  if (code != simdjson::SUCCESS) throw_broken(text, begin, simdjson::error_message(code));
  dom::object object;
  if (element.get_object().get(object) != simdjson::SUCCESS)
    throw Error{Fault::data, begin, "the row is no JSON object", "write {\"messages\": …} or the like, one row a line"};
  return fields_of(object, true);
}

}  // namespace tune
