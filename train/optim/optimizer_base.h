#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "train/optim/host_state.h"
#include "train/optim/optimizer.h"

namespace tune {

/// What all optimizers share: the parameters, rounding, and the bytes of their state's tensors (fp32 or uint8).
class OptimizerBase : public Optimizer {
 public:
  OptimizerBase(std::vector<Parameter>& parameters, const TrainOptions& options)
      : parameters_(parameters), options_(options) {}

  void step(double learning_rate) override;
  void begin_step(double learning_rate) override;
  void update(std::size_t first, std::size_t end) override;
  void zero_gradients() override;
  std::vector<NamedBytes> state() override;
  void restore(const Read& read, std::int64_t steps_done) override;
  bool state_is_on_host() const override;

 protected:
  using Named = std::pair<std::string, at::Tensor>;
  virtual std::vector<Named> named_state() = 0;

  /// Parameter::master, fp32 whatever it is outside of an update, of those parameters.
  virtual void update_masters(std::size_t first, std::size_t end) = 0;

  /// With train.offload_optimizer: `state`, just made for the next parameter, moves to the host. While update_masters()
  /// updates parameter i, which is the only one then, its state_of(i) are copies on the device.
  void offload(const HostState::Tensors& state);
  virtual HostState::Tensors state_of(std::size_t /*i*/) { return {}; }

  double rate_of(const Parameter& parameter) const { return learning_rate_ * parameter.rate_scale; }
  double decay_of(const Parameter& parameter) const { return parameter.decays ? options_.weight_decay : 0.0; }

  std::vector<Parameter>& parameters_;
  const TrainOptions options_;
  std::int64_t steps_done_ = 0;  // that of this update counts

 private:
  void update_here(std::size_t first, std::size_t end);
  void update_rounded(std::size_t i);

  double learning_rate_ = 0;
  std::optional<HostState> host_state_;
  std::vector<at::Tensor> host_;
};

/// fp32 zeros as a parameter's state begins.
at::Tensor zeros_for(const Parameter& parameter);

/// AdamW whose moments are kept in 8 bits (train/kernels/adamw_8bit.h) but for those of norms, which are few and count
/// for much.
std::unique_ptr<Optimizer> make_adamw_8bit(std::vector<Parameter>& parameters, const TrainOptions& options);

/// Adafactor: train/optim/adafactor.cpp.
std::unique_ptr<Optimizer> make_adafactor(std::vector<Parameter>& parameters, const TrainOptions& options);

}  // namespace tune
