#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace tune {

/// Where the local ranks belong among all hosts.
struct LaunchOptions {
  std::int64_t ranks = 1;  // on this host
  std::int64_t hosts = 1, host_number = 0;
  std::string master_address = "127.0.0.1";
  std::int64_t master_port = 0;  // 0: a free one; several hosts must agree on one
};

/// Starts this program `ranks` times with these arguments, the verb first, and torchrun's variables, hands SIGTERM,
/// SIGINT and SIGUSR1 on, and waits. The first rank that fails decides: the others are given a few seconds and are
/// killed then, and no process is left behind, however this one ends. A rank that was killed by a signal is told of
/// here, with where it was; others speak for themselves. Returns the exit code: 0, or the first rank's that failed, 1
/// for a signal. output_dir: where the ranks keep their heartbeats.
int launch(const LaunchOptions& options, const std::vector<std::string>& arguments,
           const std::filesystem::path& output_dir);

}  // namespace tune
