#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

namespace tune {

/// A JSON file as the tokenizers of Hugging Face folders have them, small enough to be held in memory.
/// Error{Fault::data} where it can't be read, is larger than 256 MiB or isn't JSON.
nlohmann::json read_json_file(const std::filesystem::path& path);

/// The member, or `otherwise` where it is absent, null or of another type.
template <class T>
T member_or(const nlohmann::json& object, const std::string& key, T otherwise) {
  if (!object.is_object()) return otherwise;
  const auto found = object.find(key);
  if (found == object.end()) return otherwise;
  if constexpr (std::is_same_v<T, bool>) {
    return found->is_boolean() ? found->template get<bool>() : otherwise;
  } else if constexpr (std::is_same_v<T, std::string>) {
    return found->is_string() ? found->template get<std::string>() : otherwise;
  } else {
    return found->is_number_integer() ? found->template get<T>() : otherwise;
  }
}

/// The member, or a null value.
const nlohmann::json& member(const nlohmann::json& object, const std::string& key);

}  // namespace tune
