#include "train/optim/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <map>

#include "train/optim/optimizer_base.h"

namespace tune {
namespace {

// Loshchilov & Hutter 2019, through ATen's fused kernel.
class AdamW : public OptimizerBase {
 public:
  AdamW(std::vector<Parameter>& parameters, const TrainOptions& options) : OptimizerBase(parameters, options) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    for (const Parameter& parameter : parameters) {
      exp_avg_.push_back(zeros_for(parameter));
      exp_avg_sq_.push_back(zeros_for(parameter));
      offload({&exp_avg_.back(), &exp_avg_sq_.back()});
    }
    if (!parameters.empty()) count_ = at::zeros({}, parameters.front().master.options().dtype(at::kFloat));
  }

 private:
  struct Group {
    std::vector<at::Tensor> masters, gradients, exp_avg, exp_avg_sq;
  };

  void update_masters(std::size_t first, std::size_t end) override {
    std::map<std::pair<double, double>, Group> groups;  // by rate and decay, which are the kernel's for all it is given
    for (std::size_t i = first; i < end; ++i) {
      const Parameter& parameter = parameters_[i];
      Group& group = groups[{rate_of(parameter), decay_of(parameter)}];
      group.masters.push_back(parameter.master);
      group.gradients.push_back(parameter.gradient);
      group.exp_avg.push_back(exp_avg_[i]);
      group.exp_avg_sq.push_back(exp_avg_sq_[i]);
    }
    count_.fill_(static_cast<double>(steps_done_));
    for (auto& [what, group] : groups) {
      const auto& [rate, decay] = what;
      const std::vector<at::Tensor> steps(group.masters.size(), count_);
      at::_fused_adamw_(group.masters, group.gradients, group.exp_avg, group.exp_avg_sq, {}, steps, rate,
                        options_.adam_beta1, options_.adam_beta2, decay, options_.adam_epsilon, /*amsgrad=*/false,
                        /*maximize=*/false);
    }
  }

  std::vector<Named> named_state() override {
    std::vector<Named> state;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      state.emplace_back(parameters_[i].name + ".exp_avg", exp_avg_[i]);
      state.emplace_back(parameters_[i].name + ".exp_avg_sq", exp_avg_sq_[i]);
    }
    return state;
  }

  HostState::Tensors state_of(std::size_t i) override { return {&exp_avg_[i], &exp_avg_sq_[i]}; }

  std::vector<at::Tensor> exp_avg_, exp_avg_sq_;
  at::Tensor count_;  // of steps, as the kernel takes it
};

class Sgd : public OptimizerBase {
 public:
  using OptimizerBase::OptimizerBase;

 private:
  void update_masters(std::size_t first, std::size_t end) override {
    for (std::size_t i = first; i < end; ++i) {
      Parameter& parameter = parameters_[i];
      if (const double decay = decay_of(parameter); decay > 0) parameter.gradient.add_(parameter.master, decay);
      parameter.master.sub_(parameter.gradient, rate_of(parameter));
    }
  }

  std::vector<Named> named_state() override { return {}; }
};

}  // namespace

std::unique_ptr<Optimizer> make_optimizer(std::vector<Parameter>& parameters, const TrainOptions& options) {
  if (options.optim == OptimizerType::sgd) return std::make_unique<Sgd>(parameters, options);
  if (options.optim == OptimizerType::adamw_8bit) return make_adamw_8bit(parameters, options);
  if (options.optim == OptimizerType::adafactor) return make_adafactor(parameters, options);
  return std::make_unique<AdamW>(parameters, options);
}

}  // namespace tune
