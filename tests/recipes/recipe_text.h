#pragma once
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "recipes/schema/error.h"
#include "recipes/schema/reader.h"

namespace tune {

/// The least that is a recipe, with room for more lines behind it.
inline const std::string kLeast =
    "model: {base_model: base}\n"
    "data: {datasets: [{path: rows.jsonl}]}\n";

/// What reading complains of, "" where it does not.
inline std::string complaint(const std::string& yaml, const std::vector<Override>& overrides = {}) {
  try {
    parse_recipe(yaml, "r.yaml", overrides);
  } catch (const Error& error) {
    EXPECT_EQ(error.fault(), Fault::recipe);
    return error.what();
  }
  return "";
}

/// What the shipped recipes expect in the environment.
inline void set_recipe_environment() {
  setenv("TUNE_QUICKSTART", "/quickstart", 1);
  setenv("TUNE_MODELS", "/models", 1);
  setenv("TUNE_DATA", "/data", 1);
}

}  // namespace tune
