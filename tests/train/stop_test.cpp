#include "train/stop.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

namespace tune {
namespace {

/// Exit code of `action` in a process of its own.
int exit_code(const std::function<int()>& action) {
  const pid_t child = ::fork();
  if (child == 0) {
    install_stop_signals();
    ::_exit(action());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Stop, FirstSignalAsksAndTheSecondEnds) {
  EXPECT_EQ(exit_code([] {
              std::raise(SIGUSR1);
              std::raise(SIGTERM);
              return stop_requested() == SIGTERM ? 75 : 1;
            }),
            75);
  EXPECT_EQ(exit_code([] {
              std::raise(SIGTERM);
              std::raise(SIGINT);
              return 0;
            }),
            128 + SIGINT);
}

TEST(Stop, AnEchoIsNoSecondSignal) {
  EXPECT_EQ(exit_code([] {
              std::raise(SIGTERM);
              std::raise(SIGTERM);
              return stop_requested() == SIGTERM ? 75 : 1;
            }),
            75);
}

TEST(Stop, SecondSignalLetsAWriteFinish) {
  EXPECT_EQ(exit_code([] {
              const UninterruptedWrite write;
              for (int i = 0; i < 3; ++i) std::raise(SIGTERM);
              return stop_requested() == SIGTERM ? 75 : 1;
            }),
            75);
}

}  // namespace
}  // namespace tune
