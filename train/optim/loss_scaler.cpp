#include "train/optim/loss_scaler.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <fmt/format.h>

#include <algorithm>

namespace tune {
namespace {

constexpr std::int64_t kGrowthInterval = 2000;
constexpr double kLargest = 0x1p127;  // the scale is a float, too, where the loss is differentiated

}  // namespace

void LossScaler::unscale(std::vector<Parameter>& parameters) const {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  std::vector<at::Tensor> gradients;
  for (const Parameter& parameter : parameters) gradients.push_back(parameter.gradient);
  if (!gradients.empty()) at::_foreach_mul_(gradients, 1 / scale_);
}

void LossScaler::good_step() {
  if (++good_steps_ < kGrowthInterval) return;
  scale_ = std::min(2 * scale_, kLargest);
  good_steps_ = 0;
}

bool LossScaler::skip_step() {
  if (scale_ <= 1) return false;
  scale_ /= 2;
  good_steps_ = 0;
  ++skipped_steps_;
  return true;
}

void LossScaler::add_to(std::map<std::string, std::string>& facts) const {
  facts["loss_scale"] = fmt::format("{}", scale_);
  facts["loss_scale_good_steps"] = std::to_string(good_steps_);
  facts["skipped_steps"] = std::to_string(skipped_steps_);
}

void LossScaler::restore(const std::map<std::string, std::string>& facts) {
  scale_ = std::stod(facts.at("loss_scale"));
  good_steps_ = std::stoll(facts.at("loss_scale_good_steps"));
  skipped_steps_ = std::stoll(facts.at("skipped_steps"));
}

}  // namespace tune
