#pragma once
#include <memory>

#include "data/tokenizer/sentencepiece_model.h"
#include "data/tokenizer/text_model.h"

namespace tune {

/// Which stretches of text get the dummy space in front (where the model has one at all).
enum class DummyPrefix {
  every_stretch,  // also after an added token: `legacy: true`, llama.cpp
  text_start,     // only at the start of the whole text: `legacy: false`
  never,          // `add_prefix_space: false`
};

/// The model run by the SentencePiece library. name: the file, for errors.
std::unique_ptr<TextModel> make_sentencepiece(SentencePieceModel model, DummyPrefix dummy_prefix,
                                              const std::string& name);

}  // namespace tune
