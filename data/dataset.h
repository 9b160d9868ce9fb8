#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "data/audit.h"
#include "data/loader.h"
#include "data/templates/template.h"
#include "data/tokenizer/tokenizer.h"
#include "recipes/schema/recipe.h"

namespace tune {

/// The rows of `which` as ids with a mask, in the files' order, at most data.max_length tokens each and each with at
/// least one token to learn from. Tokenised on all cores, with a bounded number of rows in memory, into
/// data.cache_dir/<key>.tokens; the key is a hash of the files' bytes, the tokenizer, the template and the settings, so
/// that a second call with the same only maps the file. An empty cache_dir keeps nothing; a file that another process
/// has left in `finished` is used then.
///
/// evaluation: which part of a file with holdout_every is meant. stage pretrain trains on every token of every row.
/// seed: of the cuts in data sets of type fim.
/// counts, when not null, gets what became of the rows, also where some are refused and an error follows.
///
/// Error{Fault::data} with file and line of refused rows (ten are listed, all are counted), among them those too long
/// under overflow: error; and when nothing is left. Error{Fault::recipe} for type fim with a tokenizer that has no
/// tokens for it.
std::unique_ptr<TokenDataset> tokenize(const DataOptions& data, const std::vector<DatasetOptions>& which,
                                       bool evaluation, const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                                       Stage stage, std::int64_t seed, const std::filesystem::path& finished = {},
                                       AuditCounts* counts = nullptr);

}  // namespace tune
