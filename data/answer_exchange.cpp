#include "data/answer_exchange.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace tune {

std::vector<Encoded> AnswerExchange::add(Encoded single) {
  const Row& row = single.pieces.front();
  const auto prompt_end = std::find_if(row.trained.begin(), row.trained.end(), [](auto mark) { return mark != 0; });
  const auto length = prompt_end - row.trained.begin();
  const std::vector<std::int32_t> prompt(row.ids.begin(), row.ids.begin() + length);
  Answer answer{{row.ids.begin() + length, row.ids.end()}, {prompt_end, row.trained.end()}};
  for (std::uint8_t& mark : answer.marks) mark = static_cast<std::uint8_t>((mark & kTrained) | kMismatched);

  std::vector<Encoded> ready;
  if (current_.answers.empty() || current_.ids != prompt) {
    previous_ = std::exchange(current_, {prompt, {}});
    for (Encoded& waiting : std::exchange(waiting_, {})) ready.push_back(joined(std::move(waiting), answer));
  }
  if (previous_.answers.empty())
    waiting_.push_back(std::move(single));
  else
    ready.push_back(joined(std::move(single), previous_.answers[current_.answers.size() % previous_.answers.size()]));
  current_.answers.push_back(std::move(answer));
  return ready;
}

std::vector<Encoded> AnswerExchange::end() {
  previous_ = current_ = {};
  for (Encoded& row : waiting_)
    row.refused = Error{Fault::data, Place{}, "all rows of the file have the same prompt",
                        "type unpaired_preference needs two: each row is compared with an answer to another prompt"};
  return std::exchange(waiting_, {});
}

Encoded AnswerExchange::joined(Encoded single, const Answer& other) const {
  Row& row = single.pieces.front();
  row.ids.insert(row.ids.end(), other.ids.begin(), other.ids.end());
  row.trained.insert(row.trained.end(), other.marks.begin(), other.marks.end());
  if (std::ssize(row.ids) <= encoder_.max_length) return single;
  if (encoder_.overflow == Overflow::error)
    single.refused =
        Error{Fault::data, Place{},
              fmt::format("the row has {} tokens with the answer that it is compared with; data.max_length "
                          "is {}",
                          row.ids.size(), encoder_.max_length),
              "raise data.max_length, or choose data.overflow: drop"};
  single.fit = Fit::too_long;
  if (!single.refused) single.pieces.clear();
  return single;
}

}  // namespace tune
