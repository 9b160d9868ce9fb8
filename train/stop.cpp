#include "train/stop.h"

#include <unistd.h>

#include <csignal>
#include <initializer_list>

namespace tune {
namespace {

volatile std::sig_atomic_t requested = 0, writes = 0;

// Schedulers send SIGUSR1 as a warning and SIGTERM some time after it: only a second SIGINT or SIGTERM is impatience.
extern "C" void on_stop_signal(int number) {
  if (requested != 0 && requested != SIGUSR1 && number != SIGUSR1 && writes == 0) _exit(128 + number);
  requested = number;
}

}  // namespace

void install_stop_signals() {
  struct sigaction action = {};
  action.sa_handler = on_stop_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (const int number : {SIGTERM, SIGINT, SIGUSR1}) sigaction(number, &action, nullptr);
}

UninterruptedWrite::UninterruptedWrite() { writes = writes + 1; }
UninterruptedWrite::~UninterruptedWrite() { writes = writes - 1; }

int stop_requested() { return requested; }

}  // namespace tune
