#include "train/metrics/jsonl.h"

#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>

#include "checkpoints/files/atomic_file.h"

namespace tune {
namespace {

using Json = nlohmann::ordered_json;

std::filesystem::path shortened(const std::filesystem::path& file, std::int64_t first_step, bool evaluated) {
  std::string kept;
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) continue;
    const std::int64_t step = json.value("step", first_step + 1);
    const bool again = step == first_step && json.contains("eval_loss") && !evaluated;
    if (step <= first_step && !again) kept += line + "\n";
  }
  write_atomically(file, kept);
  return file;
}

}  // namespace

JsonLines::JsonLines(const std::filesystem::path& file, std::int64_t first_step, bool evaluated)
    : file_(shortened(file, first_step, evaluated), WriteMode::append) {}

void JsonLines::write(const StepReport& report) {
  Json json = {{"step", report.step}, {"epoch", report.epoch}};
  const auto add = [&](const std::string& key, const auto& value) {
    if (value) json[key] = *value;
  };
  add("loss", report.loss);
  add("eval_loss", report.eval_loss);
  if (report.preference) {
    const PreferenceReport& pairs = *report.preference;
    const std::string prefix = report.eval_loss ? "eval_" : "";
    add(prefix + "rewards/chosen", pairs.chosen_reward);
    add(prefix + "rewards/rejected", pairs.rejected_reward);
    add(prefix + "rewards/margins", pairs.margin());
    add(prefix + "rewards/accuracies", pairs.accuracy);
    add(prefix + "logps/chosen", pairs.chosen_log_probability);
    add(prefix + "logps/rejected", pairs.rejected_log_probability);
    add(prefix + "kl", pairs.kl);
  }
  add("learning_rate", report.learning_rate);
  add("grad_norm", report.grad_norm);
  add("loss_scale", report.loss_scale);
  add("router_aux_loss", report.router_aux_loss);
  add("expert_share", report.expert_share);
  add("tokens", report.tokens);
  add("trained_tokens", report.trained_tokens);
  add("tokens_per_s", report.tokens_per_s);
  add("mfu", report.mfu);
  add("peak_memory", report.peak_memory);
  json["time"] = std::time(nullptr);
  file_.write(json.dump() + "\n");
}

}  // namespace tune
