#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

namespace tune {

/// A small JSON file with an object at the top. A key that occurs twice is refused, because two
/// readers could see two different values. Error{Fault::data} with file, line and column.
nlohmann::json parse_json_object(const std::string& text, const std::string& file);
nlohmann::json read_json_object(const std::filesystem::path& path);

}  // namespace tune
