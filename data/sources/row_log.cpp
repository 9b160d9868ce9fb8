#include "data/sources/row_log.h"

#include <algorithm>
#include <tuple>

namespace tune {

namespace {
constexpr std::size_t kMostRefused = 10;
}

void RowLog::refuse(const Place& place, const Error& error) {
  const bool knows_place = !error.place().file.empty();
  const Place& better = knows_place ? error.place() : place;
  std::string text = error.what();
  if (knows_place) text.erase(0, to_string(better).size() + 2);  // "place: "
  std::int64_t file = 0;
  if (!refused_.empty()) file = refused_.back().file + (refused_.back().place.file == better.file ? 0 : 1);
  refused_.push_back({file, better, std::move(text)});
  if (refused_.size() == kMostRefused) raise();
}

void RowLog::raise() const {
  if (refused_.empty()) return;
  std::vector<Refused> sorted = refused_;  // rows that were read wait for those that are tokenised
  std::stable_sort(sorted.begin(), sorted.end(), [](const Refused& a, const Refused& b) {
    return std::tie(a.file, a.place.line) < std::tie(b.file, b.place.line);
  });
  std::string text = sorted.front().text;  // Error itself puts the first place in front
  for (std::size_t i = 1; i < sorted.size(); ++i)
    text += fmt::format("\n{}: {}", to_string(sorted[i].place), sorted[i].text);
  if (sorted.size() == kMostRefused) text += fmt::format("\nstopped at the {}th refused row", kMostRefused);
  throw Error{Fault::data, sorted.front().place, text};
}

}  // namespace tune
