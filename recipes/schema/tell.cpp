#include "recipes/schema/tell.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>

namespace tune {

namespace {

std::atomic<bool> silent = false;

}  // namespace

void fall_silent() noexcept { silent = true; }
void speak_again() noexcept { silent = false; }

void tell(std::string_view text) noexcept {
  if (silent) return;
  while (!text.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written > 0)
      text.remove_prefix(static_cast<std::size_t>(written));
    else if (errno != EINTR)
      return;
  }
}

}  // namespace tune
