#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "recipes/schema/recipe.h"

namespace tune {

/// One --set: path "train.learning_rate" or "data.datasets[0].path", value as YAML ("1e-4", "[q_proj, v_proj]").
struct Override {
  std::string path, value;
};

/// What one file asks for: one recipe, or with `stages:` several that are run one after the other.
struct Stages {
  std::vector<Recipe> recipes;  // in their order; each says itself what it starts from and where it writes
  bool listed = false;          // by `stages:`, even if it is only one
  std::string output_dir;       // of all of them
};

/// Reads recipes: every key known, typed and in range, defaults filled in, batch sizes derived, ${NAME} in paths
/// expanded. Relative paths stay relative to the working directory. Error{Fault::recipe} with all mistakes of the file,
/// a line each, `file:line:column: what; remedy`; mistakes of an override have the place "--set".
/// notes: gets a line for every name of another tool that was used. May be null.
Stages read_stages(const std::filesystem::path& path, const std::vector<Override>& overrides = {},
                   std::vector<std::string>* notes = nullptr);

/// The same for a text; `file` is what messages call it.
Stages parse_stages(std::string_view yaml, const std::string& file, const std::vector<Override>& overrides = {},
                    std::vector<std::string>* notes = nullptr);

/// The same where there is one recipe only, such as a run's own. Error{Fault::recipe} for `stages:`.
Recipe read_recipe(const std::filesystem::path& path, const std::vector<Override>& overrides = {},
                   std::vector<std::string>* notes = nullptr);
Recipe parse_recipe(std::string_view yaml, const std::string& file, const std::vector<Override>& overrides = {},
                    std::vector<std::string>* notes = nullptr);

}  // namespace tune
