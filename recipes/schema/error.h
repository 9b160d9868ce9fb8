#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>

#include "recipes/schema/place.h"

namespace tune {

/// What kind of thing went wrong. The values are the exit codes that scripts rely on.
enum class Fault : int {
  running = 1,       // failure while running
  recipe = 2,        // bad command line or recipe
  data = 3,          // bad data or model files
  memory = 4,        // does not fit in memory
  verification = 5,  // a verification failed
  interrupted = 75,  // interrupted, a resumable checkpoint is on disk
};

/// Something a person can mend. Thrown where it is found, caught by main, printed once.
class Error : public std::runtime_error {
 public:
  /// what: one sentence without a full stop. remedy: what to do, in the imperative, may be empty.
  Error(Fault fault, Place place, const std::string& what, const std::string& remedy = "");

  Fault fault() const { return fault_; }
  const Place& place() const { return place_; }
  int exit_code() const { return static_cast<int>(fault_); }

 private:
  Fault fault_;
  Place place_;
};

/// A mistake of ours, not of the user: carries file:line of the check. Exit code 1.
class Bug : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

[[noreturn]] void throw_bug(const char* file, int line, const char* condition, const std::string& text);

}  // namespace tune

/// TUNE_CHECK(condition, "text {}", value): a promise between our own functions. Never for user input.
#define TUNE_CHECK(condition, ...) \
  ((condition) ? void() : ::tune::throw_bug(__FILE__, __LINE__, #condition, ::fmt::format(__VA_ARGS__)))
