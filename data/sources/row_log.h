#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "recipes/schema/error.h"

namespace tune {

/// The refused rows: all are counted, and the first ten kept so that a person sees several mistakes at once.
class RowLog {
 public:
  /// place: of the row; an error that knows its own place better keeps it.
  void refuse(const Place& place, const Error& error);

  std::int64_t count() const { return count_; }

  /// One Error{Fault::data} with a line a kept row, in the files' order, and the number of the others; returns when
  /// there are none.
  void raise() const;

 private:
  struct Refused {
    std::int64_t file;  // counted, in the order in which they were read
    Place place;
    std::string text;  // "what; remedy"
  };
  std::vector<Refused> first_;
  std::int64_t count_ = 0;
  std::int64_t files_ = 0;
  std::string file_;
};

}  // namespace tune
