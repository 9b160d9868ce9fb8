#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

#include "train/optim/optimizer.h"

namespace tune {

/// What all optimizers share: the parameters, and the bytes of their state's tensors (fp32 or uint8).
class OptimizerBase : public Optimizer {
 public:
  OptimizerBase(std::vector<Parameter>& parameters, const TrainOptions& options)
      : parameters_(parameters), options_(options) {}

  void zero_gradients() override;
  std::vector<NamedBytes> state() override;
  void restore(const Read& read, std::int64_t steps_done) override;

 protected:
  using Named = std::pair<std::string, at::Tensor>;
  virtual std::vector<Named> named_state() = 0;

  /// At the end of a step.
  void publish_masters();

  std::vector<Parameter>& parameters_;
  const TrainOptions options_;
  std::int64_t steps_done_ = 0;

 private:
  std::vector<at::Tensor> host_;
};

/// AdamW whose moments are kept in 8 bits (train/kernels/adamw_8bit.h) but for those of norms, which are few and count
/// for much.
std::unique_ptr<Optimizer> make_adamw_8bit(std::vector<Parameter>& parameters, const TrainOptions& options);

}  // namespace tune
