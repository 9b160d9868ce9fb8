#pragma once
#include <filesystem>

namespace tune {

/// Where the shipped recipes are: share/tune/recipes beside the folder of an installed program, which may have been
/// moved since; for a program that lies where it was built, the source's.
std::filesystem::path installed_recipes();

}  // namespace tune
