#pragma once
#include <csignal>
#include <exception>
#include <string>

namespace tune {

/// As if SIGPIPE had ended us: whoever read our output has seen enough (`tune data show | head`).
inline constexpr int kClosedPipe = 128 + SIGPIPE;

struct Complaint {
  std::string text;  // for a person; empty where there is nobody to tell
  int exit_code = 1;
};

/// What an exception that nobody could handle means to the person at the command line, and to scripts.
Complaint complaint_of(const std::exception_ptr& exception);

}  // namespace tune
