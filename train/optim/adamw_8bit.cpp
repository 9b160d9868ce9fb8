#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <fmt/format.h>

#include "checkpoints/quantize/dynamic_map.h"
#include "checkpoints/training/slice_name.h"
#include "recipes/schema/error.h"
#include "train/kernels/adamw_8bit.h"
#include "train/optim/optimizer_base.h"

namespace tune {
namespace {

class AdamW8bit : public OptimizerBase {
 public:
  AdamW8bit(std::vector<Parameter>& parameters, const TrainOptions& options) : OptimizerBase(parameters, options) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    for (const Parameter& parameter : parameters) {
      State state;
      if (parameter.decays)
        state.moments = make_moments_8bit(parameter.master);
      else
        state.exp_avg = zeros_for(parameter), state.exp_avg_sq = zeros_for(parameter);
      offload(tensors_of(state));
      states_.push_back(std::move(state));
    }
    if (!parameters.empty()) count_ = at::zeros({}, parameters.front().master.options().dtype(at::kFloat));
  }

 private:
  void update_masters(std::size_t first, std::size_t end) override {
    count_.fill_(static_cast<double>(steps_done_));
    for (std::size_t i = first; i < end; ++i) {
      Parameter& parameter = parameters_[i];
      State& state = states_[i];
      if (parameter.decays)
        adamw_8bit_(parameter.master, parameter.gradient, state.moments,
                    {.learning_rate = rate_of(parameter),
                     .beta_1 = options_.adam_beta1,
                     .beta_2 = options_.adam_beta2,
                     .epsilon = options_.adam_epsilon,
                     .weight_decay = options_.weight_decay,
                     .step = steps_done_});
      else
        at::_fused_adamw_({parameter.master}, {parameter.gradient}, {state.exp_avg}, {state.exp_avg_sq}, {}, {count_},
                          rate_of(parameter), options_.adam_beta1, options_.adam_beta2, 0.0, options_.adam_epsilon,
                          /*amsgrad=*/false, /*maximize=*/false);
    }
  }

  struct State {
    Moments8bit moments;
    at::Tensor exp_avg, exp_avg_sq;  // of what isn't kept in 8 bits
  };

  static HostState::Tensors tensors_of(State& state) {
    Moments8bit& m = state.moments;
    if (m.codes_1.defined()) return {&m.codes_1, &m.codes_2, &m.largest_1, &m.largest_2};
    return {&state.exp_avg, &state.exp_avg_sq};
  }
  HostState::Tensors state_of(std::size_t i) override { return tensors_of(states_[i]); }

  // Blocks begin where slices do (train/parallel/sharded_weights.cpp), so that other slices are made of the same ones.
  std::vector<Named> named_state() override {
    std::vector<Named> all;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const std::string& name = parameters_[i].name;
      const State& state = states_[i];
      if (!parameters_[i].decays) {
        all.emplace_back(name + ".exp_avg", state.exp_avg);
        all.emplace_back(name + ".exp_avg_sq", state.exp_avg_sq);
        continue;
      }
      const SliceName slice = parse_slice_name(name);
      TUNE_CHECK(slice.first.value_or(0) % kDynamicBlock == 0, "{} begins inside a block", name);
      const std::string blocks = slice.first ? slice_name(slice.tensor, *slice.first / kDynamicBlock) : name;
      all.emplace_back(name + ".exp_avg_codes", state.moments.codes_1);
      all.emplace_back(name + ".exp_avg_sq_codes", state.moments.codes_2);
      all.emplace_back(blocks + ".exp_avg_largest", state.moments.largest_1);
      all.emplace_back(blocks + ".exp_avg_sq_largest", state.moments.largest_2);
    }
    return all;
  }

  std::vector<State> states_;
  at::Tensor count_;  // of steps, as ATen's kernel takes it
};

}  // namespace

std::unique_ptr<Optimizer> make_adamw_8bit(std::vector<Parameter>& parameters, const TrainOptions& options) {
  return std::make_unique<AdamW8bit>(parameters, options);
}

}  // namespace tune
