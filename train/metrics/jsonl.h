#pragma once
#include <cstdint>
#include <filesystem>

#include "checkpoints/files/file_system.h"
#include "train/metrics/report.h"

namespace tune {

/// metrics.jsonl: one object a report, appended and handed to the kernel at once, so that a killed run loses no line.
class JsonLines {
 public:
  /// Keeps the lines of steps <= first_step, which a resumed run goes on from, and drops a torn last line.
  /// evaluated: the evaluation that belongs to first_step is done; otherwise its line is written again, too.
  JsonLines(const std::filesystem::path& file, std::int64_t first_step, bool evaluated);
  void write(const StepReport& report);

 private:
  OutputFile file_;
};

}  // namespace tune
