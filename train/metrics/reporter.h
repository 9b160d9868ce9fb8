#pragma once
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

#include "recipes/schema/recipe.h"
#include "train/metrics/jsonl.h"
#include "train/metrics/progress.h"
#include "train/metrics/report.h"
#include "train/metrics/tensorboard.h"

namespace tune {

/// Hands each report to metrics.jsonl, TensorBoard and the progress line, as logging.report_to asks.
class Reporter {
 public:
  /// first_step: where a resumed run goes on; later lines of an earlier attempt are dropped.
  /// evaluated: first_step's own evaluation is done.
  Reporter(const LoggingOptions& options, const std::filesystem::path& folder, std::int64_t first_step, bool evaluated,
           std::int64_t total_steps);
  void report(const StepReport& report);
  void say(const std::string& line);  // on stderr, above the progress line

 private:
  std::unique_ptr<JsonLines> jsonl_;
  std::unique_ptr<TensorBoard> tensorboard_;
  Progress progress_;
};

}  // namespace tune
