#include "data/encode.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

namespace tune {

namespace {

// The first id of a row is never predicted.
bool has_target(const Row& row) {
  return std::any_of(row.trained.begin() + 1, row.trained.end(), [](std::uint8_t trained) { return trained != 0; });
}

Row cut(const Row& row, std::size_t begin, std::size_t end) {
  const auto from = static_cast<std::ptrdiff_t>(begin), to = static_cast<std::ptrdiff_t>(end);
  return {{row.ids.begin() + from, row.ids.begin() + to},
          {row.trained.begin() + from, row.trained.begin() + to},
          row.place};
}

Row whole_row(const Record& record, const Encoder& encoder) {
  const std::vector<Span> spans =
      record.messages.empty()
          ? std::vector<Span>{{record.text, true}}
          : encoder.chat_template.render(record.messages, encoder.tokenizer, encoder.train_on, false);
  Row row = encode_spans(spans, encoder.tokenizer, encoder.tokenizer.add_bos);
  row.place = record.place;
  return row;
}

std::vector<Row> fitted(Row row, const Encoder& encoder, Fit& fit) {
  const auto length = row.ids.size();
  const auto most = static_cast<std::size_t>(encoder.max_length);
  std::vector<Row> pieces;
  if (length <= most) {
    pieces.push_back(std::move(row));
    return pieces;
  }
  switch (encoder.overflow) {
    case Overflow::error:
      throw Error{Fault::data, Place{}, fmt::format("the row has {} tokens; data.max_length is {}", length, most),
                  "raise data.max_length, or choose data.overflow: truncate, split or drop"};
    case Overflow::drop:
      fit = Fit::too_long;
      break;
    case Overflow::truncate:
      fit = Fit::truncated;
      pieces.push_back(cut(row, 0, most));
      break;
    case Overflow::split:
      fit = Fit::split;
      for (std::size_t begin = 0; begin < length; begin += most)
        pieces.push_back(cut(row, begin, std::min(begin + most, length)));
      break;
  }
  return pieces;
}

}  // namespace

Encoded encode(const Record& record, const Encoder& encoder) {
  Encoded encoded;
  try {
    Row row = whole_row(record, encoder);
    if (row.ids.empty()) return encoded;
    encoded.content_hash = XXH3_64bits(row.ids.data(), row.ids.size() * sizeof(std::int32_t));
    encoded.pieces = fitted(std::move(row), encoder, encoded.fit);
    std::erase_if(encoded.pieces, [](const Row& piece) { return !has_target(piece); });
  } catch (const Error& error) {
    if (error.fault() != Fault::data) throw;
    encoded.refused = error;
  }
  return encoded;
}

}  // namespace tune
