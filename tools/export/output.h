#pragma once
#include <filesystem>

namespace tune {

/// Whether `path` is `folder` or lies in it, links followed. Neither need exist.
bool is_or_holds(const std::filesystem::path& folder, const std::filesystem::path& path);

/// What was exported as `written` (a folder, a file or the first of several parts) is called NAME.unverified or
/// NAME.unverified.gguf from now on, and returned; it replaces an earlier one. Its Modelfile goes.
std::filesystem::path set_aside(const std::filesystem::path& written);

}  // namespace tune
