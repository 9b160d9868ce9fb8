#pragma once
#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <thread>
#include <vector>

#include "checkpoints/training/state.h"

namespace tune {

/// Writes checkpoints on a thread of its own, one at a time, while training goes on. What it writes is a copy that is
/// made before begin() returns. For one caller.
class BackgroundSave {
 public:
  BackgroundSave() = default;
  ~BackgroundSave();  // waits
  BackgroundSave(const BackgroundSave&) = delete;
  BackgroundSave& operator=(const BackgroundSave&) = delete;

  /// write(a copy of `state`) on that thread. Waits for the one before; throws as finish().
  using Write = std::function<void(const TrainingState&)>;
  void begin(const TrainingState& state, Write write);

  bool running() const { return running_; }

  /// Waits until it is on disk. Throws what `write` threw, once.
  void finish();

  /// The same without waiting: what went wrong must not be found at the end of the night.
  void check();

 private:
  TrainingState copy_;
  std::vector<std::vector<std::byte>> bytes_;
  std::atomic<bool> running_ = false;
  std::exception_ptr failure_;
  std::thread thread_;
};

}  // namespace tune
