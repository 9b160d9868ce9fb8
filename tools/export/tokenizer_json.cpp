#include "tools/export/tokenizer_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "data/tokenizer/sentencepiece_model.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

using nlohmann::json;

constexpr const char* kEscapedSpace = "\u2581";
enum TokenType : std::int32_t { kUnknown = 2, kControl = 3, kUserDefined = 4 };

[[noreturn]] void refuse(const std::string& where, const std::string& what) {
  throw Error{Fault::data, {where}, what, "export to GGUF instead: --format gguf"};
}

json added_tokens(const GgufTokenizer& gguf) {
  json list = json::array();
  for (std::size_t id = 0; id < gguf.types.size(); ++id) {
    const std::int32_t type = gguf.types[id];
    if (type != kControl && type != kUserDefined && type != kUnknown) continue;
    list.push_back({{"id", id},
                    {"content", gguf.tokens[id]},
                    {"single_word", false},
                    {"lstrip", false},
                    {"rstrip", false},
                    {"normalized", false},
                    {"special", type != kUserDefined}});
  }
  return list;
}

json vocabulary(const GgufTokenizer& gguf) {
  json vocab = json::object();
  for (std::size_t id = 0; id < gguf.tokens.size(); ++id) vocab[gguf.tokens[id]] = id;
  return vocab;
}

json model(const GgufTokenizer& gguf, json merges, bool byte_fallback) {
  return {
      {"type", "BPE"},
      {"dropout", nullptr},
      {"unk_token", byte_fallback && gguf.unk_id ? json(gguf.tokens[static_cast<std::size_t>(*gguf.unk_id)]) : json()},
      {"continuing_subword_prefix", nullptr},
      {"end_of_word_suffix", nullptr},
      {"fuse_unk", byte_fallback},
      {"byte_fallback", byte_fallback},
      {"ignore_merges", false},
      {"vocab", vocabulary(gguf)},
      {"merges", std::move(merges)}};
}

/// BOS in front where the model wants it.
json post_processor(const GgufTokenizer& gguf) {
  if (!gguf.add_bos || !gguf.bos_id) return nullptr;
  const std::string bos = gguf.tokens[static_cast<std::size_t>(*gguf.bos_id)];
  const json begin = {{"SpecialToken", {{"id", bos}, {"type_id", 0}}}};
  const auto text = [](const char* id, int type) { return json{{"Sequence", {{"id", id}, {"type_id", type}}}}; };
  return {{"type", "TemplateProcessing"},
          {"single", {begin, text("A", 0)}},
          {"pair", {begin, text("A", 0), text("B", 1)}},
          {"special_tokens", {{bos, {{"id", bos}, {"ids", {*gguf.bos_id}}, {"tokens", {bos}}}}}}};
}

json words(const GgufTokenizer& gguf, const std::string& where) {
  json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  if (gguf.pre == "gpt-2" || gguf.pre == "default") return byte_level;
  const json digits = {{"type", "Digits"}, {"individual_digits", true}};
  if (gguf.pre == "smollm") return {{"type", "Sequence"}, {"pretokenizers", {digits, byte_level}}};
  refuse(where, fmt::format("tokenizer.ggml.pre is \"{}\"; smollm, gpt-2 and default are known", gguf.pre));
}

json byte_level(const GgufTokenizer& gguf, const std::string& where) {
  json merges = json::array();
  for (const std::string& merge : gguf.merges) {
    const std::size_t space = merge.find(' ', 1);  // a token isn't empty
    if (space == std::string::npos) refuse(where, fmt::format("the merge \"{}\" isn't a pair of tokens", merge));
    merges.push_back({merge.substr(0, space), merge.substr(space + 1)});
  }
  return {{"normalizer", nullptr},
          {"pre_tokenizer", words(gguf, where)},
          {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
          {"model", model(gguf, std::move(merges), false)}};
}

bool is_character_start(char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }

/// SentencePiece joins the neighbours whose union has the best score: each way to cut a piece in two is a merge, in the
/// order of the scores (not of the ids: Mistral's vocabulary has them apart).
json merges_of_scores(const GgufTokenizer& gguf) {
  std::unordered_map<std::string_view, std::size_t> ids;
  for (std::size_t id = 0; id < gguf.tokens.size(); ++id) ids.emplace(gguf.tokens[id], id);
  struct Merge {
    float score;
    std::size_t left, right;
  };
  std::vector<Merge> merges;
  for (std::size_t id = 0; id < gguf.tokens.size(); ++id) {
    const std::string_view piece = gguf.tokens[id];
    const std::size_t first_of_piece = merges.size();
    for (std::size_t cut = 1; cut < piece.size(); ++cut) {
      if (!is_character_start(piece[cut])) continue;
      const auto left = ids.find(piece.substr(0, cut)), right = ids.find(piece.substr(cut));
      if (left != ids.end() && right != ids.end()) merges.push_back({gguf.scores[id], left->second, right->second});
    }
    std::sort(merges.begin() + static_cast<std::ptrdiff_t>(first_of_piece), merges.end(),
              [](const Merge& a, const Merge& b) { return std::pair(a.left, a.right) < std::pair(b.left, b.right); });
  }
  std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) { return a.score > b.score; });
  json list = json::array();
  for (const Merge& merge : merges) list.push_back({gguf.tokens[merge.left], gguf.tokens[merge.right]});
  return list;
}

json pieces(const GgufTokenizer& gguf, const std::string& where) {
  if (gguf.scores.empty()) refuse(where, "the tokenizer has no scores");
  json normalizers = json::array();
  if (gguf.add_space_prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", kEscapedSpace}});
  normalizers.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kEscapedSpace}});
  json decoders = {{{"type", "Replace"}, {"pattern", {{"String", kEscapedSpace}}}, {"content", " "}},
                   {{"type", "ByteFallback"}},
                   {{"type", "Fuse"}}};
  if (gguf.add_space_prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"normalizer", {{"type", "Sequence"}, {"normalizers", normalizers}}},
          {"pre_tokenizer", nullptr},
          {"decoder", {{"type", "Sequence"}, {"decoders", decoders}}},
          {"model", model(gguf, merges_of_scores(gguf), true)}};
}

}  // namespace

std::string tokenizer_json(const GgufTokenizer& gguf, const std::string& where) {
  if (gguf.model != "gpt2" && gguf.model != "llama")
    refuse(where, fmt::format("tokenizer.ggml.model is \"{}\"; gpt2 and llama are known", gguf.model));
  json file = gguf.model == "gpt2" ? byte_level(gguf, where) : pieces(gguf, where);
  file["version"] = "1.0";
  file["truncation"] = nullptr;
  file["padding"] = nullptr;
  file["added_tokens"] = added_tokens(gguf);
  file["post_processor"] = post_processor(gguf);
  return file.dump(1) + "\n";
}

std::string sentencepiece_bytes(const GgufTokenizer& gguf, const std::string& where) {
  std::vector<SentencePiece> list;
  for (std::size_t id = 0; id < gguf.tokens.size(); ++id)
    list.push_back({gguf.tokens[id], gguf.scores[id],
                    gguf.types.empty() ? PieceType::normal : static_cast<PieceType>(gguf.types[id])});
  return make_sentencepiece_model(std::move(list), gguf.unk_id.value_or(0), gguf.bos_id.value_or(-1),
                                  gguf.eos_id.value_or(-1), gguf.add_space_prefix, where)
      .bytes;
}

}  // namespace tune
