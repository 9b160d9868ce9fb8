#include "train/stop.h"

#include <unistd.h>

#include <ctime>

namespace tune {
namespace {

volatile std::sig_atomic_t requested = 0, writes = 0;
volatile std::sig_atomic_t requested_at = 0;  // seconds

std::sig_atomic_t seconds_now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::sig_atomic_t>(now.tv_sec);
}

// Schedulers send SIGUSR1 as a warning and SIGTERM some time after it: only a second SIGINT or SIGTERM is impatience.
// One that comes at once is an echo: a job's processes get the signal from the scheduler, and from who started them.
extern "C" void on_stop_signal(int number) {
  constexpr std::sig_atomic_t kEcho = 1;
  const bool echo = requested == number && seconds_now() - requested_at <= kEcho;
  if (requested != 0 && requested != SIGUSR1 && number != SIGUSR1 && writes == 0 && !echo) _exit(128 + number);
  if (requested == 0 || !echo) requested_at = seconds_now();
  requested = number;
}

}  // namespace

void install_stop_signals(std::initializer_list<int> numbers) {
  struct sigaction action = {};
  action.sa_handler = on_stop_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (const int number : numbers) sigaction(number, &action, nullptr);
}

UninterruptedWrite::UninterruptedWrite() { writes = writes + 1; }
UninterruptedWrite::~UninterruptedWrite() { writes = writes - 1; }

int stop_requested() { return requested; }

}  // namespace tune
