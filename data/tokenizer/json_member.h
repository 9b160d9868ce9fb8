#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

namespace tune {

/// The member, or a null value.
inline const nlohmann::json& member(const nlohmann::json& object, std::string_view key) {
  static const nlohmann::json kNull;
  if (!object.is_object()) return kNull;
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

/// The member, or `otherwise` where it is absent, null or of another type. T: bool, std::string or a whole number.
template <class T>
T member_or(const nlohmann::json& object, std::string_view key, T otherwise) {
  const nlohmann::json& found = member(object, key);
  if constexpr (std::is_same_v<T, bool>) {
    return found.is_boolean() ? found.get<bool>() : otherwise;
  } else if constexpr (std::is_same_v<T, std::string>) {
    return found.is_string() ? found.get<std::string>() : std::move(otherwise);
  } else {
    return found.is_number_integer() ? found.get<T>() : otherwise;
  }
}

}  // namespace tune
