#pragma once
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "train/parallel/rank.h"

namespace tune {

/// In the environment of ranks that our own launcher starts: tells this start from others.
inline constexpr const char* kRunVariable = "TUNE_RUN_ID";

/// What a rank is doing, for those who wait for it. Only `training` may not keep others waiting: the rest takes as long
/// as the disk and the data want, and ends by itself as long as the process beats.
enum class Phase { starting, tokenising, loading, training, evaluating, saving, answering, finished };

/// What a rank's file says: output_dir/ranks/rank-<number>.json.
struct Heartbeat {
  std::int64_t number = 0, pid = 0;
  std::string host;
  Phase phase = Phase::starting;
  std::int64_t step = 0;         // being worked on, from 1
  std::int64_t collectives = 0;  // entered so far
  std::int64_t beats = 0;        // grows while the process runs
};

std::optional<Heartbeat> read_heartbeat(const std::filesystem::path& output_dir, std::int64_t number);

/// " in training, step 12"
std::string whereabouts(const Heartbeat& heartbeat);

/// The first failure of a run, which is told by whoever claims it: all others end with its code and say nothing. False:
/// somebody else was first. `run` tells this start from earlier ones.
bool claim_failure(const std::filesystem::path& output_dir, const std::string& run, int code);

/// The same before the ranks have met, for those that our own launcher started; others always have the word.
bool claims_failure_of_launch(const std::filesystem::path& output_dir, int code);

/// Keeps this rank's heartbeat file and watches the others: a thread of its own, without LibTorch. It ends the process
///   - with a failure's code and silently, a second after another rank has claimed one;
///   - with code 1 and one message for all ranks, when a rank of this host is gone though it hadn't finished;
///   - the same, when a rank has kept this one waiting for longer than the timeout.
class Watch {
 public:
  /// run: the same for all ranks of this start, another for every start.
  Watch(std::filesystem::path output_dir, std::string run, const Rank& rank, std::chrono::seconds timeout);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  void enter(Phase phase, std::int64_t step = 0);

  /// Runs `wait`, which waits for other ranks in a collective called `name`. What it throws means that a rank is gone
  /// or a connection broke: Error{Fault::running} names the rank, where it was and what to do.
  void waiting(const char* name, const std::function<void()>& wait);

  /// The same for a wait that has failed already.
  [[noreturn]] void broken(const char* name, const std::string& reason) const;

  /// Claims a failure of this rank; see claim_failure.
  bool claim(int code) const;

  /// Another rank has the word: returns when it hasn't spoken within half a minute, else ends the process.
  void leave_the_word() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace tune
