#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checkpoints/gguf/gguf.h"
#include "checkpoints/gguf/writer.h"

namespace tune {

/// What a GGUF file says of its tokenizer, as it stands there.
struct GgufTokenizer {
  std::string model;  // "llama" (SentencePiece) or "gpt2" (byte-level BPE)
  std::string pre;    // how text is split before BPE: "smollm", "default", ...
  std::vector<std::string> tokens;
  std::vector<float> scores;        // may be empty
  std::vector<std::int32_t> types;  // 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; may be empty
  std::vector<std::string> merges;  // "left right", best first; gpt2 only
  std::optional<std::int32_t> bos_id, eos_id, eot_id, unk_id, pad_id;
  std::optional<std::int32_t> fim_pre_id, fim_suf_id, fim_mid_id;  // around the parts of a text to be filled in
  bool add_bos = false;
  bool add_space_prefix = true;  // not said: of SentencePiece only
  std::string chat_template;
};

/// Error{Fault::data} when there is none, or its lists are of different lengths. An id outside the vocabulary is none.
GgufTokenizer read_gguf_tokenizer(const GgufFile& file);

/// The other way: all keys of the tokenizer, behind those that are there.
void append_gguf_tokenizer(const GgufTokenizer& tokenizer, GgufMetadata& metadata);

}  // namespace tune
