#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "recipes/schema/document.h"
#include "recipes/schema/problems.h"
#include "recipes/schema/recipe.h"

namespace tune {

/// A key of the recipe as documentation and tests see it.
struct FieldDoc {
  std::string path;      // "train.learning_rate", "data.datasets[].path"
  std::string expects;   // "a number, above 0 up to 10"
  std::string standard;  // the default as YAML; empty = must be given, or nothing
  std::vector<std::string> aliases;
  std::string help;
};
std::vector<FieldDoc> field_docs();

/// The place of the path or, where it has none, of what is around it.
Place nearest_place(const std::map<std::string, Place>& places, std::string path);

/// What reading finds besides the recipe.
struct Reading {
  Problems& problems;
  std::vector<std::string> notes;       // "lr is called learning_rate here", each once
  std::map<std::string, Place> places;  // of every key given, by its path: "data.datasets[0].path"

  bool has(const std::string& path) const { return places.count(path) > 0; }
  /// Of the key or, where it is not given, of the nearest section around it.
  Place place_of(const std::string& path) const { return nearest_place(places, path); }
};

/// Every key of the document into its member; the rest keeps its default. Mistakes go to reading.problems.
Recipe read_fields(const YamlValue& document, const std::string& file, Reading& reading);

/// The keys of a recipe as YAML, every default spelled out.
std::string write_fields(const Recipe& recipe);

/// The name of this project for a key that may be given under another tool's name: ("train.", "lr") -> "learning_rate".
/// The name itself where it is none of the aliases.
std::string canonical_name(std::string_view section_path, std::string_view name);

/// "data.datasets[0].path" -> "data.datasets[].path": the path as the list of keys has it.
std::string without_positions(std::string_view path);

}  // namespace tune
