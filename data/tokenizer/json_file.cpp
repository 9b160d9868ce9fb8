#include "data/tokenizer/json_file.h"

#include <fmt/format.h>

#include <fstream>

#include "recipes/schema/error.h"

namespace tune {

namespace {
constexpr std::uintmax_t kMaxBytes = std::uintmax_t{256} << 20;
constexpr int kMaxDepth = 64;
}  // namespace

nlohmann::json read_json_file(const std::filesystem::path& path) {
  const std::string remedy = "copy the file again from where the model was published";
  std::error_code status;
  const std::uintmax_t size = std::filesystem::file_size(path, status);
  std::ifstream file(path, std::ios::binary);
  if (status || !file) throw Error{Fault::data, Place{path.string()}, "the file can't be read", remedy};
  if (size > kMaxBytes)
    throw Error{Fault::data, Place{path.string()},
                fmt::format("the file has {} bytes; at most {} are read", size, kMaxBytes), remedy};
  const auto refuse_depth = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    if (depth > kMaxDepth)
      throw Error{Fault::data, Place{path.string()}, fmt::format("the JSON is nested more than {} deep", kMaxDepth),
                  remedy};
    return true;
  };
  try {
    return nlohmann::json::parse(file, refuse_depth);
  } catch (const nlohmann::json::exception& error) {
    throw Error{Fault::data, Place{path.string()}, fmt::format("the file isn't valid JSON: {}", error.what()), remedy};
  }
}

const nlohmann::json& member(const nlohmann::json& object, const std::string& key) {
  static const nlohmann::json kNull;
  if (!object.is_object()) return kNull;
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

}  // namespace tune
