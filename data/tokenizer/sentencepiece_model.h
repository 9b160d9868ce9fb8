#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace tune {

/// The values are those of sentencepiece_model.proto (and of GGUF's tokenizer.ggml.token_type).
enum class PieceType : std::int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

struct SentencePiece {
  std::string text;
  float score = 0;
  PieceType type = PieceType::normal;
};

/// A SentencePiece .model file (a protobuf ModelProto), read and checked by ourselves before the library sees it:
/// crafted files overflow its stack and read out of its bounds.
struct SentencePieceModel {
  std::vector<SentencePiece> pieces;                             // the index is the id
  std::int32_t unk_id = 0, bos_id = 1, eos_id = 2, pad_id = -1;  // -1 = none
  bool bpe = true;                                               // false: unigram
  bool add_dummy_prefix = true;
  std::string
      bytes;  // a ModelProto written from the checked fields: what the library gets, and a tokenizer.model to keep
};

/// Error{Fault::data} with the file, and the number of the piece where there is one: larger than 64 MiB, broken
/// protobuf, no pieces or more than a million, a piece longer than 1 KiB, empty, with a NUL, no UTF-8 or there twice, a
/// score that isn't finite, ids of specials that aren't in the vocabulary, a model that is neither BPE nor unigram, a
/// normalizer with tables that can't be checked.
SentencePieceModel read_sentencepiece_model(const std::filesystem::path& path);

/// The same from memory. `name` stands for the file in errors.
SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& name);

/// A BPE model with byte fallback and the identity normalizer, as Llama's, out of a list of pieces (from a GGUF).
/// `name` stands for the file in errors.
SentencePieceModel make_sentencepiece_model(std::vector<SentencePiece> pieces, std::int32_t unk_id, std::int32_t bos_id,
                                            std::int32_t eos_id, bool add_dummy_prefix, const std::string& name);

}  // namespace tune
