#pragma once
#include "checkpoints/base_model.h"
#include "checkpoints/gguf/tokenizer.h"

namespace tune {

/// A model's tokenizer as GGUF stores it, one token a row of the embeddings: of a GGUF as it is, of a folder from its
/// tokenizer.model or tokenizer.json. Error{Fault::data} with the reason when llama.cpp would cut text into other
/// tokens.
GgufTokenizer tokenizer_for_gguf(const BaseModel& base);

/// Sets eot_id where turns end in another token than texts do, so that generation stops there: a second end token of
/// the configuration, the one that the chat template ends its turns with, or the one behind what was filled in.
void name_end_of_turn(const ModelConfig& config, GgufTokenizer& tokenizer);

}  // namespace tune
