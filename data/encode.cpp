#include "data/encode.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

namespace tune {

namespace {

// The first id of a row is never predicted.
bool has_target(const Row& row) { return std::any_of(row.trained.begin() + 1, row.trained.end(), is_trained); }

Row cut(const Row& row, std::size_t begin, std::size_t end) {
  const auto from = static_cast<std::ptrdiff_t>(begin), to = static_cast<std::ptrdiff_t>(end);
  return {{row.ids.begin() + from, row.ids.begin() + to},
          {row.trained.begin() + from, row.trained.begin() + to},
          row.place};
}

Fit fit_of(Overflow overflow) {
  switch (overflow) {
    case Overflow::truncate:
      return Fit::truncated;
    case Overflow::split:
      return Fit::split;
    case Overflow::error:
    case Overflow::drop:
      break;
  }
  return Fit::too_long;
}

Row encode_conversation(const std::vector<Message>& messages, const Encoder& encoder, TrainOn train_on) {
  return encode_spans(encoder.chat_template.render(messages, encoder.tokenizer, train_on, false), encoder.tokenizer,
                      encoder.tokenizer.add_bos);
}

// The ids that both conversations begin with, up to the first that is trained, then the rest of either.
Row encode_pair(const Record& record, const Encoder& encoder) {
  const Row chosen = encode_conversation(record.messages, encoder, TrainOn::last),
            rejected = encode_conversation(record.rejected, encoder, TrainOn::last);
  if (chosen.ids == rejected.ids)
    throw Error{Fault::data, Place{}, "chosen and rejected are the same", "leave the row out"};
  std::size_t shared = 0;
  const std::size_t most = std::min(chosen.ids.size(), rejected.ids.size());
  while (shared < most && chosen.ids[shared] == rejected.ids[shared] && chosen.trained[shared] == 0 &&
         rejected.trained[shared] == 0)
    ++shared;
  if (shared == 0 || !has_target(chosen) || !has_target(rejected))
    throw Error{Fault::data, Place{}, "the template leaves no prompt, or no answer, of the pair",
                "look at it with `tune data show`, and choose a template that has both"};
  Row pair{{chosen.ids.begin(), chosen.ids.begin() + static_cast<std::ptrdiff_t>(shared)},
           std::vector<std::uint8_t>(shared, 0),
           record.place};
  for (const auto& [row, answer] : {std::pair(&chosen, kChosen), {&rejected, kRejected}})
    for (std::size_t i = shared; i < row->ids.size(); ++i) {
      pair.ids.push_back(row->ids[i]);
      pair.trained.push_back(static_cast<std::uint8_t>(row->trained[i] | answer));
    }
  return pair;
}

// A good answer is marked as the chosen one of a pair, a bad one as the rejected one. AnswerExchange puts another's
// behind it.
Row encode_single(const Record& record, const Encoder& encoder) {
  Row row = encode_conversation(record.messages, encoder, TrainOn::last);
  row.place = record.place;
  const auto answer = std::find_if(row.trained.begin(), row.trained.end(), is_trained);
  if (answer == row.trained.begin() || answer == row.trained.end())
    throw Error{Fault::data, Place{}, "the template leaves no prompt, or no answer, of the row",
                "look at it with `tune data show`, and choose a template that has both"};
  for (auto mark = answer; mark != row.trained.end(); ++mark) *mark |= *record.label ? kChosen : kRejected;
  return row;
}

}  // namespace

Row encode(const Record& record, const Encoder& encoder) {
  if (!record.rejected.empty()) return encode_pair(record, encoder);
  if (record.label) return encode_single(record, encoder);
  const std::vector<Span> spans =
      record.messages.empty()
          ? std::vector<Span>{{record.text, true}}
          : encoder.chat_template.render(record.messages, encoder.tokenizer, encoder.train_on, false);
  Row row = encode_spans(spans, encoder.tokenizer, encoder.tokenizer.add_bos, record.part);
  row.place = record.place;
  return row;
}

Fitter::Fitter(const Encoder& encoder) : encoder_(encoder), hash_(XXH3_createState()) {
  XXH3_64bits_reset(hash_.get());
}

void Fitter::FreeHash::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }

void Fitter::cut_full_pieces(std::vector<Row>& pieces) {
  const auto most = static_cast<std::size_t>(encoder_.max_length);
  std::size_t begin = 0;
  for (; row_.ids.size() - begin > most; begin += most - 1) {
    pieces.push_back(cut(row_, begin, begin + most));
    row_.trained[begin + most - 1] = 0;
  }
  row_ = cut(row_, begin, row_.ids.size());
}

Encoded Fitter::add(const Row& ids, bool last) {
  Encoded encoded;
  row_.place = ids.place;
  row_.ids.insert(row_.ids.end(), ids.ids.begin(), ids.ids.end());
  row_.trained.insert(row_.trained.end(), ids.trained.begin(), ids.trained.end());
  length_ += ids.ids.size();
  XXH3_64bits_update(hash_.get(), ids.ids.data(), ids.ids.size() * sizeof(std::int32_t));

  const auto most = static_cast<std::size_t>(encoder_.max_length);
  const bool fits = length_ <= most;
  if (!fits && encoder_.overflow == Overflow::split) cut_full_pieces(encoded.pieces);
  if (row_.ids.size() > most) row_ = cut(row_, 0, most);
  if (last) {
    encoded.content_hash = XXH3_64bits_digest(hash_.get());
    if (!fits && encoder_.overflow == Overflow::error)
      encoded.refused =
          Error{Fault::data, Place{}, fmt::format("the row has {} tokens; data.max_length is {}", length_, most),
                "raise data.max_length, or choose data.overflow: truncate, split or drop"};
    if (!fits) encoded.fit = fit_of(encoder_.overflow);
    if (encoded.fit != Fit::too_long && !row_.ids.empty()) encoded.pieces.push_back(std::move(row_));
  }
  std::erase_if(encoded.pieces, [](const Row& piece) { return !has_target(piece); });
  return encoded;
}

}  // namespace tune
