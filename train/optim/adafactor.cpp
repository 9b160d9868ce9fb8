#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <algorithm>
#include <cmath>

#include "train/optim/optimizer_base.h"

namespace tune {
namespace {

// Shazeer & Stern 2018, algorithms 4 (matrices) and 5, with a learning rate of one's own: no first moment, no scaling
// by the parameter's size. The constants are theirs, and transformers'.
constexpr double kDecay = 0.8;           // beta_2 of step t is 1 - t^-0.8
constexpr double kEpsilon = 1e-30;       // added to squares of gradients
constexpr double kLargestRms = 1;        // of an update before the learning rate: larger ones are scaled down to it
constexpr std::int64_t kTile = 1 << 22;  // values whose squares exist at a time

double element_root(const at::Tensor& tensor) { return std::sqrt(static_cast<double>(tensor.numel())); }

class Adafactor : public OptimizerBase {
 public:
  Adafactor(std::vector<Parameter>& parameters, const TrainOptions& options) : OptimizerBase(parameters, options) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    for (const Parameter& parameter : parameters) {
      const auto fp32 = parameter.master.options().dtype(at::kFloat);
      State& state = states_.emplace_back();
      if (parameter.master.dim() == 2) {
        state.row = at::zeros({parameter.master.size(0)}, fp32);
        state.column = at::zeros({parameter.master.size(1)}, fp32);
      } else {
        state.whole = zeros_for(parameter);
      }
    }
  }

 private:
  struct State {
    at::Tensor row, column;  // of a matrix: means of squares over each row and each column
    at::Tensor whole;        // of anything else: of each value
  };

  void update_masters(std::size_t first, std::size_t end) override {
    const double rest = std::pow(static_cast<double>(steps_done_), -kDecay), beta = 1 - rest;
    for (std::size_t i = first; i < end; ++i) {
      const Parameter& parameter = parameters_[i];
      State& state = states_[i];
      at::Tensor update = parameter.gradient;  // becomes the update where it is
      if (state.whole.defined()) {
        state.whole.mul_(beta).add_(update.square().add_(kEpsilon), rest);
        update.mul_(state.whole.rsqrt());
      } else {
        add_squares_(state, update, beta, rest);
        update.mul_((state.row / state.row.mean()).rsqrt_().unsqueeze(1)).mul_(state.column.rsqrt());
      }
      update.div_((at::linalg_vector_norm(update) / (element_root(update) * kLargestRms)).clamp_min_(1.0));
      const double rate = rate_of(parameter);
      at::Tensor master = parameter.master;
      if (const double decay = decay_of(parameter); decay > 0) master.mul_(1 - rate * decay);
      master.sub_(update, rate);
    }
  }

  static void add_squares_(State& state, const at::Tensor& gradient, double beta, double rest) {
    const std::int64_t rows = gradient.size(0), columns = gradient.size(1),
                       tile = std::max<std::int64_t>(kTile / columns, 1);
    at::Tensor row = at::empty_like(state.row), column = at::zeros_like(state.column);
    for (std::int64_t from = 0; from < rows; from += tile) {
      const std::int64_t count = std::min(tile, rows - from);
      const at::Tensor squares = gradient.narrow(0, from, count).square();
      row.narrow(0, from, count).copy_(squares.mean(1));
      column.add_(squares.sum(0));
    }
    state.row.mul_(beta).add_(row.add_(kEpsilon), rest);
    state.column.mul_(beta).add_(column.div_(static_cast<double>(rows)).add_(kEpsilon), rest);
  }

  std::vector<Named> named_state() override {
    std::vector<Named> all;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const std::string& name = parameters_[i].name;
      const State& state = states_[i];
      if (state.whole.defined()) {
        all.emplace_back(name + ".exp_avg_sq", state.whole);
        continue;
      }
      all.emplace_back(name + ".exp_avg_sq_row", state.row);
      all.emplace_back(name + ".exp_avg_sq_col", state.column);
    }
    return all;
  }

  std::vector<State> states_;
};

}  // namespace

std::unique_ptr<Optimizer> make_adafactor(std::vector<Parameter>& parameters, const TrainOptions& options) {
  return std::make_unique<Adafactor>(parameters, options);
}

}  // namespace tune
