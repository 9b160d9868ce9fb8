#include "train/optim/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
namespace tune {
namespace {

// Shared by all: parameters, their split by weight decay, and the bytes of named state tensors.
class OptimizerBase : public Optimizer {
 public:
  OptimizerBase(std::vector<Parameter>& parameters, const TrainOptions& options)
      : parameters_(parameters), options_(options) {}

  void zero_gradients() override {
    host_.clear();
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    for (Parameter& parameter : parameters_) parameter.gradient.zero_();
  }

  std::vector<NamedBytes> state() override {
    host_.clear();
    std::vector<NamedBytes> result;
    for (const auto& [name, tensor] : named_state()) {
      host_.push_back(tensor.cpu().contiguous());
      const at::Tensor& host = host_.back();
      result.push_back({.name = name,
                        .dtype = "F32",
                        .shape = host.sizes().vec(),
                        .bytes = {static_cast<const std::byte*>(host.const_data_ptr()), host.nbytes()}});
    }
    return result;
  }

  void restore(const Read& read, std::int64_t steps_done) override {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    for (auto& [name, tensor] : named_state()) {
      at::Tensor host = at::empty(tensor.sizes(), at::kFloat);
      read(name, {static_cast<std::byte*>(host.mutable_data_ptr()), host.nbytes()});
      at::Tensor(tensor).copy_(host);
    }
    steps_done_ = steps_done;
  }

 protected:
  using Named = std::pair<std::string, at::Tensor>;
  virtual std::vector<Named> named_state() = 0;

  void publish_masters() {
    for (Parameter& parameter : parameters_)
      if (!parameter.value.is_same(parameter.master)) parameter.value.copy_(parameter.master);
    zero_gradients();
  }

  std::vector<Parameter>& parameters_;
  const TrainOptions options_;
  std::int64_t steps_done_ = 0;

 private:
  std::vector<at::Tensor> host_;
};

// Loshchilov & Hutter 2019, through ATen's fused kernel.
class AdamW : public OptimizerBase {
 public:
  AdamW(std::vector<Parameter>& parameters, const TrainOptions& options) : OptimizerBase(parameters, options) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    for (const Parameter& parameter : parameters) {
      Group& group = groups_[parameter.decays ? 0 : 1];
      group.names.push_back(parameter.name);
      group.masters.push_back(parameter.master);
      group.gradients.push_back(parameter.gradient);
      group.exp_avg.push_back(at::zeros_like(parameter.master));
      group.exp_avg_sq.push_back(at::zeros_like(parameter.master));
    }
    for (Group& group : groups_)  // the same number for all: one tensor, asked for as often as there are parameters
      if (!group.masters.empty())
        group.steps.assign(group.masters.size(), at::zeros({}, group.masters.front().options()));
  }

  void step(double learning_rate) override {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    ++steps_done_;
    for (std::size_t i = 0; i < 2; ++i) {
      Group& group = groups_[i];
      if (group.masters.empty()) continue;
      group.steps.front().fill_(static_cast<double>(steps_done_));
      at::_fused_adamw_(group.masters, group.gradients, group.exp_avg, group.exp_avg_sq, {}, group.steps, learning_rate,
                        options_.adam_beta1, options_.adam_beta2, i == 0 ? options_.weight_decay : 0.0,
                        options_.adam_epsilon, /*amsgrad=*/false, /*maximize=*/false);
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
    for (const Group& group : groups_) {
      for (std::size_t i = 0; i < group.names.size(); ++i) {
        state.emplace_back(group.names[i] + ".exp_avg", group.exp_avg[i]);
        state.emplace_back(group.names[i] + ".exp_avg_sq", group.exp_avg_sq[i]);
      }
    }
    return state;
  }

  Group groups_[2];  // with weight decay, without
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
      parameter.master.sub_(parameter.gradient, learning_rate);
    }
    publish_masters();
  }

 private:
  std::vector<Named> named_state() override { return {}; }
};

}  // namespace

std::unique_ptr<Optimizer> make_optimizer(std::vector<Parameter>& parameters, const TrainOptions& options) {
  if (options.optim == OptimizerType::sgd) return std::make_unique<Sgd>(parameters, options);
  return std::make_unique<AdamW>(parameters, options);
}

}  // namespace tune
