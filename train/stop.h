#pragma once
#include <csignal>
#include <initializer_list>

namespace tune {

/// From now on these signals ask for an orderly stop: the handler only sets a flag, the trainer looks at
/// it between micro-batches of training and of evaluation and between generated tokens. A second SIGINT or SIGTERM ends
/// the process at once (nothing on disk is ever half-written), but not while a checkpoint is being written, and not the
/// same one again within a second.
void install_stop_signals(std::initializer_list<int> numbers = {SIGTERM, SIGINT, SIGUSR1});

/// While one of them lives, a second signal waits for the orderly stop as the first one does.
class UninterruptedWrite {
 public:
  UninterruptedWrite();
  ~UninterruptedWrite();
  UninterruptedWrite(const UninterruptedWrite&) = delete;
  UninterruptedWrite& operator=(const UninterruptedWrite&) = delete;
};

/// The signal that asked for a stop, 0 = none.
int stop_requested();

}  // namespace tune
