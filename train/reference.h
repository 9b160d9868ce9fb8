#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "data/loader.h"
#include "train/model/decoder.h"
#include "train/objectives/preference.h"
#include "train/parallel/world.h"

namespace tune {

/// What the model as it is, adapter included, gives each pair of `dataset`, by row: the reference that training starts
/// from. Every rank takes its share of the batches and gets all; they are made as evaluate() makes them. `file` keeps
/// the result under `key`, the hash of what it depends on; it is read instead where it is there. Empty: nothing is
/// kept.
std::vector<PairLogProbabilities> reference_of(Decoder& decoder, const TokenDataset& dataset,
                                               std::int64_t rows_per_batch, std::int64_t max_tokens, World& world,
                                               const std::filesystem::path& file = {}, const std::string& key = "");

}  // namespace tune
