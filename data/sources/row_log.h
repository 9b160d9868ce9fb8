#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "recipes/schema/error.h"

namespace tune {

/// The refused rows, collected so that a person sees several mistakes at once.
class RowLog {
 public:
  /// place: of the row; an error that knows its own place better keeps it. Raises when there are ten.
  void refuse(const Place& place, const Error& error);

  /// One Error{Fault::data} with a line a refused row, in the files' order; returns when there are none.
  void raise() const;

 private:
  struct Refused {
    std::int64_t file;  // counted, in the order in which they were read
    Place place;
    std::string text;  // "what; remedy"
  };
  std::vector<Refused> refused_;
};

}  // namespace tune
