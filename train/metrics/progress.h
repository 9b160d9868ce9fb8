#pragma once
#include <chrono>
#include <cstdint>
#include <string>

#include "train/metrics/report.h"

namespace tune {

/// How far the run is, on stderr: one line that is redrawn on a terminal, a plain line every ten seconds elsewhere.
class Progress {
 public:
  Progress(std::int64_t first_step, std::int64_t total_steps);
  void update(const StepReport& report);
  void say(const std::string& line);

 private:
  using Clock = std::chrono::steady_clock;

  const std::int64_t first_step_, total_steps_;
  const bool terminal_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point last_line_ = {};
};

}  // namespace tune
