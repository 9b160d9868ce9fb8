#pragma once
#include <memory>
#include <string>

#include "data/tokenizer/bpe.h"
#include "data/tokenizer/text_model.h"

namespace tune {

/// How a tokenizer.json spells SentencePiece's dummy prefix.
struct PieceBpeOptions {
  DummyPrefix prefix = DummyPrefix::every_stretch;
  bool doubles_prefix = true;  // also before a text that begins with a space (normalizer Prepend; Metaspace doesn't)
  bool splits_words = false;   // Metaspace with split: each space begins a word
  bool drops_leading_space = true;  // when decoding
};

/// SentencePiece-like BPE as `tokenizers` keeps it: spaces spelled U+2581, the whole stretch merged as one word.
std::unique_ptr<TextModel> make_piece_bpe(const BpeModel& model, const PieceBpeOptions& options,
                                          const std::string& name);

}  // namespace tune
