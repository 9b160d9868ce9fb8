#pragma once
#include <cstdint>
#include <optional>
#include <vector>

namespace tune {

/// Of pairs of answers, means over them; of single answers, over the good (chosen) and over the bad ones (rejected),
/// absent where there are none. Called as TRL calls them.
struct PreferenceReport {
  std::optional<double> chosen_reward, rejected_reward;
  std::optional<double> accuracy;  // share of the pairs whose chosen answer has the higher reward
  std::optional<double> chosen_log_probability, rejected_log_probability;
  std::optional<double> kl;  // of single answers: how far the model is from the reference

  std::optional<double> margin() const {
    if (!chosen_reward || !rejected_reward) return std::nullopt;
    return *chosen_reward - *rejected_reward;
  }
};

/// One line of metrics.jsonl. Absent values are left out. Everything up to trained_tokens is the same in every run of
/// the same recipe; what follows is measured.
struct StepReport {
  std::int64_t step = 0;  // optimizer steps done
  double epoch = 0;
  std::optional<double> loss = std::nullopt;  // of the step, nats a trained token; stage dpo: a pair or an answer
  std::optional<double> eval_loss = std::nullopt;
  std::optional<PreferenceReport> preference =
      std::nullopt;  // stage dpo; of the evaluation where there is an eval_loss
  std::optional<double> learning_rate = std::nullopt;
  std::optional<double> grad_norm = std::nullopt;        // before clipping; of fp16: absent where it overflowed
  std::optional<double> loss_scale = std::nullopt;       // of fp16: what the loss was multiplied by
  std::optional<double> router_aux_loss = std::nullopt;  // before its coefficient; not part of loss
  std::optional<std::vector<double>> expert_share = std::nullopt;  // of all tokens sent to experts, over all layers
  std::optional<std::int64_t> tokens = std::nullopt;               // since step 0
  std::optional<std::int64_t> trained_tokens = std::nullopt;       // since step 0
  std::optional<double> tokens_per_s = std::nullopt;
  std::optional<double> mfu = std::nullopt;                // share of the device's peak; absent where that is not known
  std::optional<std::int64_t> peak_memory = std::nullopt;  // bytes
};

}  // namespace tune
