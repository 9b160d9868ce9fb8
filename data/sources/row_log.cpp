#include "data/sources/row_log.h"

#include <algorithm>
#include <tuple>

namespace tune {

void RowLog::refuse(const Place& place, const Error& error) {
  const bool knows_place = !error.place().file.empty();
  const Place& better = knows_place ? error.place() : place;
  if (count_++ == 0 || better.file != file_) ++files_;
  file_ = better.file;
  std::string text = error.what();
  if (knows_place) text.erase(0, to_string(better).size() + 2);  // "place: "
  // rows that were read are ahead of those that are tokenised
  const auto before = [](const Refused& a, const Refused& b) {
    return std::tie(a.file, a.place.line) < std::tie(b.file, b.place.line);
  };
  Refused refused{files_, better, std::move(text)};
  first_.insert(std::upper_bound(first_.begin(), first_.end(), refused, before), refused);
  constexpr std::size_t kListed = 10;
  if (first_.size() > kListed) first_.pop_back();
}

void RowLog::raise() const {
  if (first_.empty()) return;
  std::string text = first_.front().text;  // Error itself puts the first place in front
  for (std::size_t i = 1; i < first_.size(); ++i)
    text += fmt::format("\n{}: {}", to_string(first_[i].place), first_[i].text);
  if (const auto more = count_ - static_cast<std::int64_t>(first_.size()); more > 0)
    text += fmt::format("\n… and {} more row{}", more, more == 1 ? "" : "s");
  throw Error{Fault::data, first_.front().place, text};
}

}  // namespace tune
