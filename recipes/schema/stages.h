#pragma once
#include <vector>

#include "recipes/schema/document.h"
#include "recipes/schema/problems.h"
#include "recipes/schema/reader.h"

namespace tune {

/// Whether the document, or one of the changes, has `stages:`.
bool lists_stages(const YamlValue& document, const std::vector<Override>& overrides);

/// A document with `stages:` as a plain one a stage, with all changes made: what stands outside of `stages:` and, over
/// it, the stage's own keys. Sections are merged key by key under whichever of their names; lists and single values
/// replace. Then come the keys that a stage has from its place in the list: output_dir, and of the later ones
/// adapter.init_adapter or model.base_model. Mistakes go to `problems`; nothing comes back where there is no list.
std::vector<YamlValue> expand_stages(YamlValue document, const std::vector<Override>& overrides, Problems& problems);

/// Adds what can't follow one after the other, of recipes that are right each for itself.
void check_stages(const std::vector<Recipe>& recipes, Problems& problems);

/// PiSSA leaves an adapter of twice the rank (its start beside what was trained): the stages that go on from it have
/// that rank, too.
void take_stored_ranks(std::vector<Recipe>& recipes);

}  // namespace tune
