#pragma once
#include <filesystem>

namespace tune {

/// Whether `path` is `folder` or lies in it, links followed. Neither need exist.
bool is_or_holds(const std::filesystem::path& folder, const std::filesystem::path& path);

}  // namespace tune
