#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "data/encode.h"
#include "data/order.h"

namespace tune {

/// The tokens around the parts, as Code Llama's vocabulary spells them.
struct InfillingTokens {
  static constexpr std::string_view prefix = "▁<PRE>", suffix = "▁<SUF>", middle = "▁<MID>", end = "▁<EOT>";
};

/// The rows of a data set of type fim: texts of which a part is to be filled in, as Code Llama was trained to (Rozière
/// et al. 2023, section 2.3; Bavarian et al. 2022).
///   PSM  BOS ▁<PRE> prefix ▁<SUF> suffix ▁<MID> middle ▁<EOT>
///   SPM  BOS ▁<PRE> ▁<SUF> suffix ▁<MID> prefix middle ▁<EOT>
/// The prefix is tokenised as a text, suffix and middle as something that goes on, without a dummy space. Special
/// tokens that a text spells stay text. The two cuts are uniform over the text's characters; they and the form follow
/// from the seed, the text and its line alone.
///
/// Under train_on: all every token is trained, else the middle and its EOT. A text that isn't cut is as one of type
/// text.
class Infiller {
 public:
  /// encoder must outlive it. Error{Fault::recipe} when the tokenizer hasn't got the four tokens.
  Infiller(const DatasetOptions& options, const Encoder& encoder, std::int64_t seed);

  /// Fitted to max_length. truncate and split cut the text first and then each piece in three, so that no row lacks its
  /// middle; a row with a middle of its own loses context on both sides instead.
  Encoded encode(const Record& record) const;

 private:
  struct Cut {
    std::string_view prefix, middle, suffix;
  };

  Row plain(std::string_view text, TextPart part) const;
  Row infilled(const Cut& cut, bool suffix_first) const;
  Row drawn(std::string_view text, TextPart part, SplitMix64 random) const;
  Encoded pieces(const Record& record, std::uint64_t key) const;
  Encoded around_middle(const Record& record, const Cut& cut, bool suffix_first) const;

  const Encoder& encoder_;
  double rate_, spm_rate_;
  std::uint64_t seed_;
  std::int32_t prefix_ = 0, suffix_ = 0, middle_ = 0, end_ = 0;  // the tokens
};

}  // namespace tune
