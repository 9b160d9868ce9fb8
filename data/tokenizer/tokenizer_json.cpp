#include "data/tokenizer/tokenizer_json.h"

#include <fmt/format.h>

#include "checkpoints/files/json.h"
#include "data/tokenizer/byte_level_bpe.h"
#include "data/tokenizer/json_member.h"
#include "data/tokenizer/piece_bpe.h"
#include "data/tokenizer/piece_text.h"
#include "data/tokenizer/pre_tokenizer.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

using nlohmann::json;

[[noreturn]] void refuse(const std::string& name, const std::string& what) {
  throw Error{Fault::data, Place{name}, what,
              "put the model's tokenizer.model beside it, or use a model with byte-level BPE or Llama's tokenizer"};
}

std::string type_of(const json& part) { return member_or<std::string>(part, "type", ""); }

// The parts of a Sequence, or the part itself; none for null.
std::vector<json> parts_of(const json& part, const std::string& members) {
  if (part.is_null()) return {};
  if (type_of(part) != "Sequence") return {part};
  const json& list = member(part, members);
  return list.is_array() ? list.get<std::vector<json>>() : std::vector<json>{};
}

std::pair<std::string, std::string> read_merge(const json& merge, const std::string& name) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return {merge[0], merge[1]};
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const std::size_t space = text.find(' ');
    if (space != std::string::npos) return {text.substr(0, space), text.substr(space + 1)};
  }
  refuse(name, fmt::format("the merge {} isn't a pair of tokens", merge.dump()));
}

BpeModel read_bpe(const json& model, const std::string& name) {
  const std::string type = type_of(model);
  if (type != "BPE" && !(type.empty() && model.contains("merges")))
    refuse(name, fmt::format("the tokenizer's model is \"{}\"; only BPE is supported", type));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!member_or<std::string>(model, key, "").empty())
      refuse(name, fmt::format("the tokenizer's model uses {}, which isn't supported", key));
  }
  BpeModel bpe{.byte_fallback = member_or(model, "byte_fallback", false),
               .fuse_unknown = member_or(model, "fuse_unk", false),
               .ignore_merges = member_or(model, "ignore_merges", false)};
  if (const json& unknown = member(model, "unk_token"); unknown.is_string()) bpe.unknown = unknown.get<std::string>();
  const json& vocabulary = member(model, "vocab");
  const json& merges = member(model, "merges");
  if (!vocabulary.is_object() || !merges.is_array()) refuse(name, "the tokenizer's model has no vocab and merges");
  for (const auto& [token, id] : vocabulary.items()) {
    if (!id.is_number_integer()) refuse(name, fmt::format("the id of token \"{}\" isn't a number", token));
    bpe.vocabulary.emplace(token, id.get<std::int32_t>());
  }
  bpe.merges.reserve(merges.size());
  for (const json& merge : merges) bpe.merges.push_back(read_merge(merge, name));
  return bpe;
}

std::string split_expression(const json& part, const std::string& name) {
  const json& expression = member(member(part, "pattern"), "Regex");
  const std::string behavior = member_or<std::string>(part, "behavior", "");
  const bool invert = member_or(part, "invert", false);
  const bool isolates = (behavior == "Isolated" && !invert) || (behavior == "Removed" && invert);
  if (!expression.is_string() || !isolates)
    refuse(name, fmt::format("a Split pre-tokenizer must isolate what a Regex finds; this one is {}", part.dump()));
  return expression;
}

// The expressions of a byte-level pre-tokenizer; nothing if it isn't one.
std::optional<std::vector<std::string>> word_expressions(const std::vector<json>& parts, const std::string& name) {
  std::vector<std::string> expressions;
  bool byte_level = false;
  for (const json& part : parts) {
    const std::string type = type_of(part);
    if (type == "Digits") {
      expressions.emplace_back(member_or(part, "individual_digits", false) ? kEachDigit : kDigitRuns);
    } else if (type == "Split") {
      expressions.push_back(split_expression(part, name));
    } else if (type == "ByteLevel") {
      byte_level = true;
      if (member_or(part, "add_prefix_space", true))
        refuse(name, "the ByteLevel pre-tokenizer has add_prefix_space, which isn't supported");
      if (member_or(part, "use_regex", true)) expressions.emplace_back(kGpt2Words);
    } else {
      return std::nullopt;
    }
  }
  if (!byte_level) return std::nullopt;
  return expressions;
}

DummyPrefix prefix_of_metaspace(const json& part, const std::string& name) {
  if (member_or<std::string>(part, "replacement", "") != kEscapedSpace)
    refuse(name, "the Metaspace pre-tokenizer must replace a space by U+2581");
  const std::string scheme =
      member_or<std::string>(part, "prepend_scheme", member_or(part, "add_prefix_space", true) ? "always" : "never");
  if (scheme == "always") return DummyPrefix::every_stretch;
  if (scheme == "first") return DummyPrefix::text_start;
  if (scheme == "never") return DummyPrefix::never;
  refuse(name,
         fmt::format("the Metaspace pre-tokenizer has the prepend_scheme \"{}\"; it must be always, first or never",
                     scheme));
}

PieceBpeOptions piece_options(const json& file, const std::string& name) {
  PieceBpeOptions options{.prefix = DummyPrefix::never, .drops_leading_space = false};
  bool escapes = false;
  for (const json& part : parts_of(member(file, "normalizer"), "normalizers")) {
    const std::string type = type_of(part);
    if (type == "Prepend" && member_or<std::string>(part, "prepend", "") == kEscapedSpace) {
      options.prefix = DummyPrefix::every_stretch;
    } else if (type == "Replace" && member_or<std::string>(member(part, "pattern"), "String", "") == " " &&
               member_or<std::string>(part, "content", "") == kEscapedSpace) {
      escapes = true;
    } else {
      refuse(name, fmt::format("the normalizer {} isn't known", part.dump()));
    }
  }
  for (const json& part : parts_of(member(file, "pre_tokenizer"), "pretokenizers")) {
    if (type_of(part) != "Metaspace" || escapes)
      refuse(name, fmt::format("the pre-tokenizer {} isn't known", part.dump()));
    escapes = true;
    options.prefix = prefix_of_metaspace(part, name);
    options.doubles_prefix = false;
    options.splits_words = member_or(part, "split", true);
  }
  if (!escapes) refuse(name, "neither a normalizer nor a pre-tokenizer turns spaces into U+2581");
  for (const json& part : parts_of(member(file, "decoder"), "decoders")) {
    const bool strips = type_of(part) == "Strip" && member_or(part, "start", 0) == 1;
    options.drops_leading_space |= strips || (type_of(part) == "Metaspace" && options.prefix != DummyPrefix::never);
  }
  return options;
}

std::vector<AddedToken> read_added(const json& file, const std::string& name) {
  std::vector<AddedToken> added;
  const json& list = member(file, "added_tokens");
  if (!list.is_array()) return added;
  for (const json& token : list) {
    AddedToken result{.content = member_or<std::string>(token, "content", ""),
                      .id = member_or<std::int32_t>(token, "id", -1),
                      .special = member_or(token, "special", false),
                      .lstrip = member_or(token, "lstrip", false),
                      .rstrip = member_or(token, "rstrip", false),
                      .single_word = member_or(token, "single_word", false),
                      .normalized = member_or(token, "normalized", true)};
    if (result.id < 0 || result.content.empty())
      refuse(name, fmt::format("the added token {} has no id or content", token.dump()));
    added.push_back(std::move(result));
  }
  return added;
}

// Tokens of the template that come before the text itself.
std::vector<std::string> read_leading_tokens(const json& file) {
  std::vector<std::string> leading;
  for (const json& part : parts_of(member(file, "post_processor"), "processors")) {
    if (type_of(part) != "TemplateProcessing" || !member(part, "single").is_array()) continue;
    for (const json& item : member(part, "single")) {
      const json& token = member(item, "SpecialToken");
      if (token.is_null()) break;
      leading.push_back(member_or<std::string>(token, "id", ""));
    }
  }
  return leading;
}

}  // namespace

TokenizerJson read_tokenizer_json(const std::filesystem::path& path, std::optional<DummyPrefix> prefix) {
  const std::string name = path.string();
  const json file = read_json_object(path);
  const BpeModel bpe = read_bpe(member(file, "model"), name);
  TokenizerJson result{.added = read_added(file, name), .leading_tokens = read_leading_tokens(file)};
  if (const auto expressions = word_expressions(parts_of(member(file, "pre_tokenizer"), "pretokenizers"), name)) {
    if (!member(file, "normalizer").is_null())
      refuse(name,
             fmt::format("the normalizer {} isn't known for byte-level BPE", type_of(member(file, "normalizer"))));
    result.model = make_byte_level_bpe(bpe, *expressions, name);
  } else {
    const bool has_prefix = prefix && *prefix != DummyPrefix::never;
    const PieceBpeOptions options =
        prefix ? PieceBpeOptions{.prefix = *prefix, .doubles_prefix = false, .drops_leading_space = has_prefix}
               : piece_options(file, name);
    result.model = make_piece_bpe(bpe, options, name);
  }
  return result;
}

TokenizerJsonRules read_tokenizer_json_rules(const std::filesystem::path& path) {
  const json file = read_json_object(path);
  TokenizerJsonRules rules{.added = read_added(file, path.string()), .leading_tokens = read_leading_tokens(file)};
  try {
    rules.prefix = piece_options(file, path.string()).prefix;
  } catch (const Error&) {  // the tokenizer.model beside it knows how to do without
  }
  return rules;
}

}  // namespace tune
