#pragma once
#include <memory>

#include "data/tokenizer/sentencepiece_model.h"
#include "data/tokenizer/text_model.h"

namespace tune {

/// The model run by the SentencePiece library. name: the file, for errors.
std::unique_ptr<TextModel> make_sentencepiece(SentencePieceModel model, DummyPrefix dummy_prefix,
                                              const std::string& name);

}  // namespace tune
