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
      Group& group = groups_[{parameter.decays, parameter.rate_scale}];
      group.names.push_back(parameter.name);
      group.masters.push_back(parameter.master);
      group.gradients.push_back(parameter.gradient);
      group.exp_avg.push_back(at::zeros_like(parameter.master));
      group.exp_avg_sq.push_back(at::zeros_like(parameter.master));
    }
    for (auto& [what, group] :
         groups_)  // the same number for all: one tensor, asked for as often as there are parameters
      group.steps.assign(group.masters.size(), at::zeros({}, group.masters.front().options()));
  }

  void step(double learning_rate) override {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    ++steps_done_;
    for (auto& [what, group] : groups_) {
      const auto& [decays, rate_scale] = what;
      group.steps.front().fill_(static_cast<double>(steps_done_));
      at::_fused_adamw_(group.masters, group.gradients, group.exp_avg, group.exp_avg_sq, {}, group.steps,
                        learning_rate * rate_scale, options_.adam_beta1, options_.adam_beta2,
                        decays ? options_.weight_decay : 0.0, options_.adam_epsilon, /*amsgrad=*/false,
                        /*maximize=*/false);
    }
    publish_masters();
  }

 private:
  struct Group {
    std::vector<std::string> names;
    std::vector<at::Tensor> masters, gradients, exp_avg, exp_avg_sq, steps;
  };

  std::vector<Named> named_state() override {
    std::vector<Named> state;
    for (const auto& [what, group] : groups_) {
      for (std::size_t i = 0; i < group.names.size(); ++i) {
        state.emplace_back(group.names[i] + ".exp_avg", group.exp_avg[i]);
        state.emplace_back(group.names[i] + ".exp_avg_sq", group.exp_avg_sq[i]);
      }
    }
    return state;
  }

  std::map<std::pair<bool, double>, Group> groups_;  // by whether they decay, and Parameter::rate_scale
};

class Sgd : public OptimizerBase {
 public:
  using OptimizerBase::OptimizerBase;

  void step(double learning_rate) override {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    ++steps_done_;
    for (Parameter& parameter : parameters_) {
      if (parameter.decays && options_.weight_decay > 0)
        parameter.gradient.add_(parameter.master, options_.weight_decay);
      parameter.master.sub_(parameter.gradient, learning_rate * parameter.rate_scale);
    }
    publish_masters();
  }

 private:
  std::vector<Named> named_state() override { return {}; }
};

}  // namespace

std::unique_ptr<Optimizer> make_optimizer(std::vector<Parameter>& parameters, const TrainOptions& options) {
  if (options.optim == OptimizerType::sgd) return std::make_unique<Sgd>(parameters, options);
  if (options.optim == OptimizerType::adamw_8bit) return make_adamw_8bit(parameters, options);
  return std::make_unique<AdamW>(parameters, options);
}

}  // namespace tune
