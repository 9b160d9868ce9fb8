#pragma once
#include <cstdint>
#include <filesystem>

#include "checkpoints/files/file_system.h"
#include "train/metrics/report.h"

namespace tune {

/// metrics.jsonl: one object a report, appended and handed to the kernel at once, so that a killed run loses no line.
class JsonLines {
 public:
  /// Keeps the lines of steps <= first_step (a resumed run writes the others again) and drops a torn last line.
  /// first_step 0 keeps none.
  JsonLines(const std::filesystem::path& file, std::int64_t first_step);
  void write(const StepReport& report);

 private:
  OutputFile file_;
};

}  // namespace tune
