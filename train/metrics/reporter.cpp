#include "train/metrics/reporter.h"

#include <algorithm>

namespace tune {

Reporter::Reporter(const LoggingOptions& options, const std::filesystem::path& folder, std::int64_t first_step,
                   bool evaluated, std::int64_t total_steps)
    : progress_(first_step, total_steps) {
  const auto wanted = [&](const char* name) {
    return std::find(options.report_to.begin(), options.report_to.end(), name) != options.report_to.end();
  };
  if (wanted("jsonl")) jsonl_ = std::make_unique<JsonLines>(folder / "metrics.jsonl", first_step, evaluated);
  if (wanted("tensorboard"))
    tensorboard_ = std::make_unique<TensorBoard>(folder / "tensorboard", first_step, evaluated);
}

void Reporter::report(const StepReport& report) {
  if (jsonl_) jsonl_->write(report);
  if (tensorboard_) tensorboard_->write(report);
  progress_.update(report);
}

void Reporter::say(const std::string& line) { progress_.say(line); }

}  // namespace tune
