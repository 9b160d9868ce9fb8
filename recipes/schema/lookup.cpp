#include "recipes/schema/lookup.h"

#include <fmt/format.h>

#include <algorithm>

#include "recipes/schema/error.h"
#include "recipes/schema/problems.h"
#include "recipes/schema/suggest.h"

namespace tune {
namespace {

namespace fs = std::filesystem;

std::string remedy_for(const std::string& name, const fs::path& installed) {
  std::vector<std::string> names;
  for (const fs::path& folder : {fs::path("."), fs::path("recipes"), installed})
    for (const fs::path& file : list_recipes(folder)) names.push_back(file.stem().string());
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  if (const auto meant = nearest(fs::path(name).stem().string(), names)) return fmt::format("did you mean {}?", *meant);
  return names.empty() ? "name a .yaml file" : fmt::format("shipped are {}", fmt::join(names, ", "));
}

}  // namespace

fs::path find_recipe(const std::string& name, const fs::path& installed) {
  std::error_code unreadable;  // counts as not there
  if (!name.empty())
    for (const fs::path& candidate : {fs::path(name), "recipes" / fs::path(name), installed / name})
      for (const fs::path& path : {candidate, fs::path(candidate.string() + ".yaml")})
        if (fs::exists(path, unreadable) && !fs::is_directory(path, unreadable)) return path;
  throw Error{Fault::recipe, {}, fmt::format("there is no recipe \"{}\"", name), remedy_for(name, installed)};
}

std::vector<fs::path> list_recipes(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code unreadable;  // counts as empty
  for (const auto& entry : fs::directory_iterator(folder, unreadable))
    if (entry.path().extension() == ".yaml") files.push_back(entry.path());
  std::sort(files.begin(), files.end(), [](const fs::path& a, const fs::path& b) { return a.stem() < b.stem(); });
  return files;
}

}  // namespace tune
