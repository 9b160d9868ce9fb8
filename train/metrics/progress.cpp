#include "train/metrics/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>

#include "recipes/schema/tell.h"

namespace tune {
namespace {

std::string clock_text(double seconds) {
  const auto whole = std::llround(seconds);
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

std::string bar(std::int64_t done, std::int64_t total) {
  constexpr std::int64_t kWidth = 24;
  const std::int64_t filled = total > 0 ? kWidth * done / total : 0;
  return std::string(static_cast<std::size_t>(filled), '=') +
         std::string(static_cast<std::size_t>(kWidth - filled), ' ');
}

}  // namespace

Progress::Progress(std::int64_t first_step, std::int64_t total_steps)
    : first_step_(first_step), total_steps_(total_steps), terminal_(isatty(STDERR_FILENO) == 1) {}

void Progress::update(const StepReport& report) {
  if (report.eval_loss) {
    say(fmt::format("step {}: eval loss {:.4f}", report.step, *report.eval_loss));
    return;
  }
  const bool last = report.step == total_steps_;
  const auto now = Clock::now();
  if (!terminal_ && !last && now - last_line_ < std::chrono::seconds(10)) return;
  last_line_ = now;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const auto done = static_cast<double>(report.step - first_step_);
  const double left = done > 0 ? elapsed / done * static_cast<double>(total_steps_ - report.step) : 0;
  const std::string line =
      fmt::format("[{}] step {}/{}  epoch {:.2f}  loss {:.4f}  lr {:.2e}  {:.0f} tok/s  {} left",
                  bar(report.step, total_steps_), report.step, total_steps_, report.epoch, report.loss.value_or(0),
                  report.learning_rate.value_or(0), report.tokens_per_s.value_or(0), clock_text(left));
  tell("{}{}{}", terminal_ ? "\r\033[K" : "", line, terminal_ && !last ? "" : "\n");
}

void Progress::say(const std::string& line) { tell("{}{}\n", terminal_ ? "\r\033[K" : "", line); }

}  // namespace tune
