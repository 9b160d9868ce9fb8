#include "data/infilling.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <utility>

namespace tune {

namespace {

constexpr std::size_t kMarks = 5;  // BOS and the four tokens

// Where the text's characters begin, and its end.
std::vector<std::size_t> character_starts(std::string_view text) {
  std::vector<std::size_t> starts;
  for (std::size_t i = 0; i < text.size(); ++i)
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) starts.push_back(i);
  starts.push_back(text.size());
  return starts;
}

// The tokens of a text by where they begin, to cut it between them.
class TokenStarts {
 public:
  TokenStarts(std::string_view text, const Tokenizer& tokenizer)
      : begin_(tokenizer.encode_plain(text).begin), text_bytes_(text.size()) {}

  std::size_t count() const { return begin_.size(); }
  std::size_t offset(std::size_t token) const {
    return token == count() ? text_bytes_ : static_cast<std::size_t>(begin_[token]);
  }

  // The last token up to `wanted`, but behind `from`, that begins another character than the one before it.
  std::size_t cut(std::size_t from, std::size_t wanted) const {
    std::size_t token = std::min(wanted, count());
    while (token > from && offset(token) == offset(from)) --token;
    while (token > from && token < count() && offset(token) == offset(token - 1)) --token;
    if (token > from) return token;
    token = from + 1;
    while (token < count() && offset(token) == offset(from)) ++token;
    return token;
  }

 private:
  std::vector<std::int32_t> begin_;
  std::size_t text_bytes_;
};

bool has_target(const Row& row) {
  return !row.ids.empty() &&
         std::any_of(row.trained.begin() + 1, row.trained.end(), [](std::uint8_t trained) { return trained != 0; });
}

std::int32_t token_of(const Tokenizer& tokenizer, std::string_view piece, const DatasetOptions& options) {
  if (const auto id = tokenizer.token_id(piece)) return *id;
  throw Error{Fault::recipe, Place{},
              fmt::format("{} is of type fim, but the model has no token {}, so it can't fill in", options.path, piece),
              "take Code Llama 7B, 13B or 70B, base or Instruct (its 34B and Python models can't either), or write "
              "type: text"};
}

}  // namespace

Infiller::Infiller(const DatasetOptions& options, const Encoder& encoder, std::int64_t seed)
    : encoder_(encoder),
      rate_(options.fim_rate.value_or(kDefaultFimRate)),
      spm_rate_(options.fim_spm_rate.value_or(kDefaultFimSpmRate)),
      seed_(static_cast<std::uint64_t>(seed)),
      prefix_(token_of(encoder.tokenizer, InfillingTokens::prefix, options)),
      suffix_(token_of(encoder.tokenizer, InfillingTokens::suffix, options)),
      middle_(token_of(encoder.tokenizer, InfillingTokens::middle, options)),
      end_(token_of(encoder.tokenizer, InfillingTokens::end, options)) {}

Row Infiller::plain(std::string_view text, TextPart part) const {
  const Tokenizer& tokenizer = encoder_.tokenizer;
  Row row;
  const auto add = [&](std::int32_t id, bool trained) {
    row.ids.push_back(id);
    row.trained.push_back(trained);
  };
  if (begins(part) && tokenizer.add_bos && tokenizer.bos_id) add(*tokenizer.bos_id, false);
  for (const std::int32_t id : tokenizer.encode_plain(text, part).ids) add(id, true);
  if (ends(part) && tokenizer.eos_id) add(*tokenizer.eos_id, true);
  return row;
}

Row Infiller::infilled(const Cut& cut, bool suffix_first) const {
  const Tokenizer& tokenizer = encoder_.tokenizer;
  const bool trains_all = encoder_.train_on == TrainOn::all;
  Row row;
  const auto add = [&](std::int32_t id, bool trained) {
    row.ids.push_back(id);
    row.trained.push_back(trained);
  };
  const auto add_text = [&](std::string_view text, TextPart part, bool trained) {
    for (const std::int32_t id : tokenizer.encode_plain(text, part).ids) add(id, trained);
  };
  if (tokenizer.add_bos && tokenizer.bos_id) add(*tokenizer.bos_id, false);
  add(prefix_, trains_all);
  if (!suffix_first) add_text(cut.prefix, TextPart::first, trains_all);
  add(suffix_, trains_all);
  add_text(cut.suffix, TextPart::last, trains_all);
  add(middle_, trains_all);
  if (suffix_first) add_text(cut.prefix, TextPart::first, trains_all);
  add_text(cut.middle, TextPart::middle, true);
  add(end_, true);
  return row;
}

// A text or a piece of one, cut or not as the random numbers say.
Row Infiller::drawn(std::string_view text, TextPart part, SplitMix64 random) const {
  if (random.share() >= rate_) return plain(text, part);
  const std::vector<std::size_t> starts = character_starts(text);
  std::size_t begin = starts[random.below(starts.size())], end = starts[random.below(starts.size())];
  if (begin > end) std::swap(begin, end);
  return infilled({text.substr(0, begin), text.substr(begin, end - begin), text.substr(end)},
                  random.share() < spm_rate_);
}

Encoded Infiller::encode(const Record& record) const {
  const std::uint64_t hash = XXH3_64bits(record.text.data(), record.text.size());
  const std::uint64_t key = hash + static_cast<std::uint64_t>(record.place.line);
  const std::string_view text = record.text;
  Encoded encoded;
  Row row;
  Cut cut;
  SplitMix64 random(seed_, key);
  const bool suffix_first = record.middle && random.share() < spm_rate_;
  if (record.middle) {
    const auto [begin, end] = *record.middle;
    cut = {text.substr(0, begin), text.substr(begin, end - begin), text.substr(end)};
    row = infilled(cut, suffix_first);
  } else {
    row = drawn(text, TextPart::whole, random);
  }
  const bool fits = std::cmp_less_equal(row.ids.size(), encoder_.max_length);
  if (fits || encoder_.overflow == Overflow::error || encoder_.overflow == Overflow::drop) {
    row.place = record.place;
    encoded = Fitter(encoder_).add(row, true);
  } else {
    encoded = record.middle ? around_middle(record, cut, suffix_first) : pieces(record, key);
  }
  encoded.content_hash = hash;
  return encoded;
}

Encoded Infiller::pieces(const Record& record, std::uint64_t key) const {
  const std::string_view text = record.text;
  const TokenStarts tokens(text, encoder_.tokenizer);
  const auto most = static_cast<std::size_t>(encoder_.max_length);
  Encoded encoded;
  encoded.fit = encoder_.overflow == Overflow::split ? Fit::split : Fit::truncated;
  for (std::size_t first = 0; first < tokens.count();) {
    std::size_t end = first, wanted = most - kMarks;
    Row row;
    // A cut through a token makes several of it, so a piece may turn out longer than planned.
    for (;;) {
      end = tokens.cut(first, first + wanted);
      const std::size_t begin = tokens.offset(first);
      const bool last = end == tokens.count();
      row = drawn(text.substr(begin, tokens.offset(end) - begin), text_part(first == 0, last),
                  SplitMix64(seed_, key + begin));
      if (row.ids.size() <= most) break;
      TUNE_CHECK(wanted > 0, "a piece of one character has {} tokens", row.ids.size());
      wanted -= std::min(wanted, row.ids.size() - most);
    }
    row.place = record.place;
    if (has_target(row)) encoded.pieces.push_back(std::move(row));
    if (encoded.fit == Fit::truncated) break;
    first = end;
  }
  return encoded;
}

Encoded Infiller::around_middle(const Record& record, const Cut& cut, bool suffix_first) const {
  const Tokenizer& tokenizer = encoder_.tokenizer;
  const auto most = static_cast<std::size_t>(encoder_.max_length);
  const std::size_t needed = kMarks + tokenizer.encode_plain(cut.middle, TextPart::middle).ids.size();
  Encoded encoded;
  encoded.fit = Fit::too_long;
  if (needed > most) return encoded;
  const TokenStarts before(cut.prefix, tokenizer), after(cut.suffix, tokenizer);
  for (std::size_t room = most - needed;;) {
    const std::size_t half = std::min(before.count(), std::max(room / 2, room - std::min(room, after.count())));
    const std::size_t rest = std::min(after.count(), room - half);
    const std::string_view prefix = half == 0 ? "" : cut.prefix.substr(before.offset(before.count() - half));
    const std::string_view suffix = rest == 0 ? "" : cut.suffix.substr(0, after.offset(after.cut(0, rest)));
    Row row = infilled({prefix, cut.middle, suffix}, suffix_first);
    if (row.ids.size() <= most) {
      row.place = record.place;
      encoded.fit = Fit::truncated;
      encoded.pieces.push_back(std::move(row));
      return encoded;
    }
    if (room == 0) return encoded;
    room -= std::min(room, row.ids.size() - most);
  }
}

}  // namespace tune
