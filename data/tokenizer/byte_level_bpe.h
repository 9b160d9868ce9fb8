#pragma once
#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer/bpe.h"
#include "data/tokenizer/text_model.h"

namespace tune {

/// GPT-2's byte-level BPE: words cut by regular expressions, each byte of a word spelled as a visible character, merged
/// by rank. word_expressions: see PreTokenizer. name: the file, for errors.
std::unique_ptr<TextModel> make_byte_level_bpe(const BpeModel& model, const std::vector<std::string>& word_expressions,
                                               const std::string& name);

}  // namespace tune
