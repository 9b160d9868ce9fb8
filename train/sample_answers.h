#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "recipes/schema/recipe.h"
#include "train/inputs.h"
#include "train/parallel/world.h"

namespace tune {

/// The answers to options.sample_prompts, on every rank. The ranks share the prompts; where they keep the weights
/// together, each generates all. Nothing when a stop was asked for meanwhile, of any rank.
std::optional<std::vector<std::string>> sample_answers(Decoder& decoder, const Inputs& inputs,
                                                       const EvalOptions& options, std::int64_t seed, World& world);

}  // namespace tune
