#pragma once
#include <filesystem>
#include <string>
#include <vector>

namespace tune {

/// The file a person means by `name`: the path as given, then in ./recipes, then in `installed`; .yaml may be left off.
/// Error{Fault::recipe} with the nearest names where there is none.
std::filesystem::path find_recipe(const std::string& name, const std::filesystem::path& installed);

/// The .yaml files of a folder, sorted; empty where there is no such folder.
std::vector<std::filesystem::path> list_recipes(const std::filesystem::path& folder);

}  // namespace tune
