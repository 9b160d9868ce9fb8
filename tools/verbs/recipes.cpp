#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "checkpoints/files/atomic_file.h"
#include "recipes/schema/error.h"
#include "recipes/schema/lookup.h"
#include "recipes/schema/tell.h"
#include "tools/verbs/arguments.h"
#include "tools/verbs/installed_recipes.h"
#include "tools/verbs/verbs.h"

namespace tune {
namespace {

namespace fs = std::filesystem;

std::string text_of(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(stream), {}};
  if (!stream.good() && !stream.eof()) throw Error{Fault::running, {path.string()}, "the recipe cannot be read"};
  return text;
}

// The first line of the head comment: what the recipe is for.
std::string summary_of(const fs::path& path) {
  std::string line;
  std::ifstream stream(path);
  std::getline(stream, line);
  return line.starts_with("# ") ? line.substr(2) : "";
}

int list() {
  const std::vector<fs::path> files = list_recipes(installed_recipes());
  std::size_t width = 0;
  for (const fs::path& file : files) width = std::max(width, file.stem().string().size());
  for (const fs::path& file : files) fmt::print("{:<{}}  {}\n", file.stem().string(), width, summary_of(file));
  return 0;
}

int show(const std::string& name) {
  const std::string text = text_of(find_recipe(name, installed_recipes()));
  std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

// Never over somebody's edited recipe.
int copy(const std::string& name, fs::path destination) {
  const fs::path source = find_recipe(name, installed_recipes());
  if (fs::is_directory(destination) || !destination.has_filename()) destination /= source.filename();
  if (fs::exists(destination))
    throw Error{Fault::recipe, {destination.string()}, "there is a file of this name already", "choose another one"};
  write_atomically(destination, text_of(source));
  tell("{} written; run it with: tune --recipe {}\n", destination.string(), destination.string());
  return 0;
}

}  // namespace

int recipes_verb(const std::vector<std::string>& arguments) {
  constexpr const char* kExample = "tune recipes copy quickstart mine.yaml";
  const std::string action = arguments.empty() || arguments[0].starts_with('-') ? "" : arguments[0];
  if (action.empty()) {
    boost::program_options::variables_map values;
    if (!parse_arguments(arguments, "recipes", "The shipped recipes: ls | show NAME | copy NAME DEST", kExample,
                         boost::program_options::options_description("Options"), values))
      return 0;
    return list();
  }
  if (action == "ls" && arguments.size() == 1) return list();
  if (action == "show" && arguments.size() == 2) return show(arguments[1]);
  if (action == "copy" && arguments.size() == 3) return copy(arguments[1], arguments[2]);
  throw Error{Fault::recipe,
              {},
              fmt::format("tune recipes cannot do: {}", fmt::join(arguments, " ")),
              fmt::format("write ls, show NAME or copy NAME DEST, such as: {}", kExample)};
}

}  // namespace tune
