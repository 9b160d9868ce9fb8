#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "recipes/schema/place.h"

namespace tune {

/// The mistakes of one recipe, collected so that a person sees all of them at once.
class Problems {
 public:
  /// what: one sentence without a full stop. remedy: what to do, may be empty.
  void add(const Place& place, const std::string& what, const std::string& remedy = "");

  std::size_t count() const { return problems_.size(); }

  /// One Error{Fault::recipe} with a line a problem, sorted by line and column; returns when there are none.
  void raise() const;

 private:
  struct Problem {
    Place place;
    std::string text;  // "what; remedy"
  };
  std::vector<Problem> problems_;
};

/// A user's text inside a message: in double quotes, control characters escaped, cut after 60 bytes.
std::string in_quotes(std::string_view text);

}  // namespace tune
