#include "checkpoints/files/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string_view>
#include <vector>

#include "checkpoints/files/file_system.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

using nlohmann::json;

constexpr int kMaxDepth = 64;
constexpr const char* kRemedy = "the file is damaged or was edited by hand: mend it or copy it again";

Place place_of_byte(const std::string& text, const std::string& file, std::size_t byte) {
  const std::size_t end = std::min(byte > 0 ? byte - 1 : 0, text.size());
  const std::string_view before(text.data(), end);
  const auto newline = before.rfind('\n');
  const std::size_t column = newline == std::string_view::npos ? end : end - newline - 1;
  return {file, std::count(before.begin(), before.end(), '\n') + 1, static_cast<std::int64_t>(column) + 1};
}

/// Watches the parser go by: one set of keys for each object that is open.
class KeyWatch {
 public:
  explicit KeyWatch(const std::string& file) : file_(file) {}

  bool operator()(int depth, json::parse_event_t event, json& parsed) {
    using Event = json::parse_event_t;
    if (depth > kMaxDepth)
      throw Error{Fault::data, {file_}, fmt::format("JSON is nested deeper than {}", kMaxDepth), kRemedy};
    if (event == Event::object_start) open_.emplace_back();
    if (event == Event::object_end) open_.pop_back();
    if (event == Event::key && !open_.back().insert(parsed.get<std::string>()).second)
      throw Error{Fault::data, {file_}, fmt::format("key \"{}\" occurs twice", parsed.get<std::string>()), kRemedy};
    return true;
  }

 private:
  const std::string& file_;
  std::vector<std::set<std::string>> open_;
};

}  // namespace

json parse_json_object(const std::string& text, const std::string& file) {
  json parsed;
  try {
    KeyWatch watch(file);
    parsed = json::parse(
        text, [&watch](int depth, json::parse_event_t event, json& value) { return watch(depth, event, value); });
  } catch (const json::parse_error& error) {
    throw Error{Fault::data, place_of_byte(text, file, error.byte), "is not valid JSON here", kRemedy};
  } catch (const json::exception&) {  // a number beyond double
    throw Error{Fault::data, {file}, "is not valid JSON", kRemedy};
  }
  if (!parsed.is_object()) throw Error{Fault::data, {file}, "holds no JSON object", kRemedy};
  return parsed;
}

json read_json_object(const std::filesystem::path& path) { return parse_json_object(read_text(path), path.string()); }

}  // namespace tune
